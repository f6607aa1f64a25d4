"""Ways of working on the candidates of a run: one by one, or in groups that share what they can."""
