"""Losses by what a user calls them: a run directory, a loss file, a known name, an expression."""

from __future__ import annotations

import os
import re
from pathlib import Path

from evomal.errors import InputError, quoted, require_name
from evomal.losses.base import Loss
from evomal.losses.files import load_loss
from evomal.losses.form import Form
from evomal.losses.known import HANDCRAFTED_LOSSES, KNOWN_LOSSES, handcrafted
from evomal.losses.symbolic import SymbolicLoss

BEST_LOSS = "best.json"
"""The file of a run directory that holds the best loss so far."""


def is_run_dir(text: str) -> bool:
    """Whether a text names a directory; a text too long for a name, as of a formula, does not."""
    return os.path.isdir(text)  # noqa: PTH112 - Path.is_dir raises an error for a long text


_LOSSES = (
    "`evomal losses` lists those with a name, and a loss file, a run directory or an expression in "
    "quotes will do, too"
)


def resolve_loss(text: str, form: Form = Form("identity")) -> Loss:  # noqa: B008 - immutable
    """The loss that a user names: a run directory, a loss file, a known loss, or an expression.

    Parameters
    ----------
    text
        Any of the four.
    form
        The form of an expression; files and most known losses have their own.

    Raises
    ------
    InputError
        If it is none of the four.
    """
    if is_run_dir(text):
        return _best_of_run(text)
    if os.path.exists(text) or text.endswith(".json"):  # noqa: PTH110
        return load_loss(text)
    if os.sep in text:
        raise InputError(f"There is no run directory and no loss file {quoted(text)}.")
    if text in KNOWN_LOSSES:
        known = KNOWN_LOSSES[text]
        own = form if known.link in (None, form.link) else Form(known.link)
        return SymbolicLoss.of_form(known.expression, own)
    if text in HANDCRAFTED_LOSSES:
        return handcrafted(text, form)
    if not re.search(r"[(\d]", text) and text not in ("y", "f", *form.inputs):  # no expression
        require_name("loss", text, {**KNOWN_LOSSES, **HANDCRAFTED_LOSSES}, _LOSSES)
    return SymbolicLoss.of_form(text, form)


def _best_of_run(run_dir: str) -> Loss:
    """The best loss of a run directory."""
    path = Path(run_dir, BEST_LOSS)
    if not path.exists():
        raise InputError(
            f"The directory {quoted(run_dir)} holds no {BEST_LOSS}: it is no run, or no loss was "
            f"learned there; if it is one, `evomal show` with the same directory says why."
        )
    return load_loss(path)


def expression_of(text: str, form: Form) -> str:
    """The prefix form of a loss that a user names, as in `resolve_loss`; its weights are dropped.

    Raises
    ------
    InputError
        If it is no loss, or one without an expression.
    """
    loss = resolve_loss(text, form)
    if not isinstance(loss, SymbolicLoss):
        raise InputError(f"The loss {quoted(text)} is no expression, so it cannot begin a search.")
    if loss.link != form.link:
        raise InputError(
            f"The loss {quoted(text)} is for link {loss.link!r}, but the tasks have link "
            f"{form.link!r}; leave it out, or give its expression if you mean that."
        )
    return str(loss.expression)
