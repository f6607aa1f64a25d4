"""What a user's own input can cause: an error, or a warning."""


class InputError(ValueError):
    """Bad input; the message is one sentence that names the input and the remedy.

    The command line prints the message and exits with status 2.
    """


class TaskWarning(UserWarning):
    """Something about a task that is allowed but rarely meant; the message says what to change."""
