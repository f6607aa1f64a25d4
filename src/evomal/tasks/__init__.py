"""Tasks: data, a base learner, the task loss, the performance metric, the base optimiser."""
