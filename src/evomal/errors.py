"""The error and the warning for user input, and how messages quote it."""

from __future__ import annotations

import difflib
from collections.abc import Collection

_QUOTED = 100  # maximum characters of an input in a message
_LONGEST = 250  # maximum characters of a quoted error


class InputError(ValueError):
    """Invalid input; the message is one sentence that names the input and the remedy.

    The command line prints the message and exits with status 2.
    """


class TaskWarning(UserWarning):
    """A likely mistake in a task; the message says what to change."""


def printable(text: str) -> str:
    r"""A text with control and bidirectional characters escaped, as in ``\x1b``.

    A terminal then shows them instead of interpreting them.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(value: object) -> str:
    """A value for messages: its ``repr`` if that is one line, shortened if it is long."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, int) and value.bit_length() > 4 * _QUOTED:  # Python may refuse to print it
        return f"a number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except RecursionError:  # deeply nested lists
        text = "\n"
    if "\n" in text:
        return f"an object of type {type(value).__name__}"
    return printable(shortened(text))


def shortened(text: str) -> str:
    """A text cut to at most one line."""
    return text if len(text) <= _QUOTED else f"{text[: _QUOTED - 1]}…"


def first_line(error: Exception) -> str:
    """The message of an error on one line, cut if it is long."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def named(error: Exception) -> str:
    """The type and message of an error on one line."""
    kind = type(error).__name__
    return f"{kind}: {first_line(error)}" if str(error) else kind


def require_name(kind: str, name: object, known: Collection[str], listing: str = "") -> None:
    """Raise an `InputError` with suggestions if a name is unknown.

    Parameters
    ----------
    kind
        The kind of name, such as ``"task"``.
    name
        The user's input.
    known
        The known names.
    listing
        How to list long sets of known names, as the end of a sentence.
    """
    if isinstance(name, str) and name in known:
        return
    remedy = meant(name, known)
    if remedy is None:
        few = len(known) <= 8 or not listing
        remedy = f"choose from {', '.join(known)}." if few else f"{listing}."
    raise InputError(f"Unknown {kind} {quoted(name)}; {remedy}")


def meant(name: object, known: Collection[str]) -> str | None:
    """A "did you mean" question with the closest known names; None if none is close."""
    wanted = name.lower() if isinstance(name, str) else ""
    close = difflib.get_close_matches(wanted, known)
    if not close:
        return None
    bar = 0.9 * max(_likeness(wanted, other) for other in close)
    *others, last = (other for other in close if _likeness(wanted, other) >= bar)
    return f"did you mean {', '.join(others) + ' or ' if others else ''}{last}?"


def _likeness(first: str, second: str) -> float:
    """Similarity from 0 to 1."""
    return difflib.SequenceMatcher(None, first, second).ratio()
