"""The error that a user's own input can cause."""


class InputError(ValueError):
    """Bad input; the message is one sentence that names the input and the remedy.

    The command line prints the message and exits with status 2.
    """
