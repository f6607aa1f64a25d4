"""The numerics: unrolled optimisation, partial training, the filters."""
