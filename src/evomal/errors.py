"""What a user's own input can cause: an error, or a warning; and how messages quote it."""

from __future__ import annotations

import difflib
from collections.abc import Collection

_QUOTED = 100  # characters of an input that a message repeats
_LONGEST = 250  # characters of an error that a message quotes


class InputError(ValueError):
    """Bad input; the message is one sentence that names the input and the remedy.

    The command line prints the message and exits with status 2.
    """


class TaskWarning(UserWarning):
    """Something about a task that is allowed but rarely meant; the message says what to change."""


def printable(text: str) -> str:
    r"""A text whose control characters, and those that turn its direction, are written ``\x1b``.

    A terminal shows them then, and obeys none of them.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def quoted(value: object) -> str:
    """A value as messages quote it: as Python writes it, if that is a line, and at most that."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    if isinstance(value, int) and value.bit_length() > 4 * _QUOTED:  # Python may refuse to write it
        return f"a number of {value.bit_length()} bits"
    try:
        text = repr(value)
    except RecursionError:  # lists in lists in lists
        text = "\n"
    if "\n" in text:
        return f"an object of type {type(value).__name__}"
    return printable(shortened(text))


def shortened(text: str) -> str:
    """At most a line of a text."""
    return text if len(text) <= _QUOTED else f"{text[: _QUOTED - 1]}…"


def first_line(error: Exception) -> str:
    """What an error says, on one line, and cut where that is long."""
    line = next(iter(str(error).splitlines()), type(error).__name__)
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}..."


def named(error: Exception) -> str:
    """The type of an error and what it says, on one line."""
    kind = type(error).__name__
    return f"{kind}: {first_line(error)}" if str(error) else kind


def require_name(kind: str, name: object, known: Collection[str], listing: str = "") -> None:
    """Raise an `InputError` if a name is not among those known; it says which may be meant.

    Parameters
    ----------
    kind
        What is named, such as ``"task"``.
    name
        What the user gave.
    known
        The names that there are.
    listing
        Where all of them can be seen, if they are many, as the end of a sentence.
    """
    if isinstance(name, str) and name in known:
        return
    remedy = meant(name, known)
    if remedy is None:
        few = len(known) <= 8 or not listing
        remedy = f"choose from {', '.join(known)}." if few else f"{listing}."
    raise InputError(f"Unknown {kind} {quoted(name)}; {remedy}")


def meant(name: object, known: Collection[str]) -> str | None:
    """A question that names what is most like a name that is not known; None if nothing is."""
    wanted = name.lower() if isinstance(name, str) else ""
    close = difflib.get_close_matches(wanted, known)
    if not close:
        return None
    bar = 0.9 * max(_likeness(wanted, other) for other in close)
    *others, last = (other for other in close if _likeness(wanted, other) >= bar)
    return f"did you mean {', '.join(others) + ' or ' if others else ''}{last}?"


def _likeness(first: str, second: str) -> float:
    """From 0 to 1."""
    return difflib.SequenceMatcher(None, first, second).ratio()
