"""The base learners of the paper, one file each."""
