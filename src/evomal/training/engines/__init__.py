"""Engines: they process candidates one at a time, or in groups that share computations."""
