"""Losses from user input: a run directory, a loss file, a known name, or an expression."""

from __future__ import annotations

import os
import re
from pathlib import Path

from evomal.errors import InputError, quoted, require_name
from evomal.losses.base import Loss
from evomal.losses.families import FAMILIES, family_loss, family_of
from evomal.losses.files import load_loss
from evomal.losses.form import Form
from evomal.losses.known import (
    HANDCRAFTED_LOSSES,
    KNOWN_LOSSES,
    handcrafted_loss,
    weighted_loss,
)
from evomal.losses.log_cosh import LogCoshLoss
from evomal.losses.symbolic import SymbolicLoss

BEST_LOSS = "best.json"
"""The file with the best loss so far in a run directory."""


LOG_COSH = "log-cosh"


def is_run_dir(text: str) -> bool:
    """Whether a text names a directory; a text too long for a path, such as a formula, does not."""
    return os.path.isdir(text)  # noqa: PTH112 - Path.is_dir raises an error for a long text


_LOSSES = (
    "`evomal losses` lists the known names; a loss file, a run directory or a quoted expression "
    "also works"
)


def resolve_loss(text: str, form: Form = Form("identity")) -> Loss:  # noqa: B008 - immutable
    """The loss given by a run directory, a loss file, a known name, or an expression.

    Parameters
    ----------
    text
        Any of the four.
    form
        The form for an expression; files and most known losses define their own.

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
        raise InputError(f"There is no run directory or loss file {quoted(text)}.")
    if text in KNOWN_LOSSES:
        known = KNOWN_LOSSES[text]
        own = form if known.link in (None, form.link) else Form(known.link)
        return weighted_loss(known.expression, own, known.weights)
    if text in HANDCRAFTED_LOSSES:
        return handcrafted_loss(text, form)
    if text == LOG_COSH:
        return LogCoshLoss()
    if family_of(text) is not None:
        return family_loss(text, form)
    if text in FAMILIES:
        raise InputError(f"The loss {text} needs a number, as in {FAMILIES[text].example}.")
    if not re.search(r"[(\d]", text) and text not in ("y", "f", *form.inputs):  # not an expression
        names = {**KNOWN_LOSSES, **HANDCRAFTED_LOSSES, **FAMILIES, LOG_COSH: LogCoshLoss}
        require_name("loss", text, names, _LOSSES)
    return SymbolicLoss.of_form(text, form)


def _best_of_run(run_dir: str) -> Loss:
    """The best loss of a run directory."""
    path = Path(run_dir, BEST_LOSS)
    if not path.exists():
        raise InputError(
            f"The directory {quoted(run_dir)} has no {BEST_LOSS}: it is not a run, or the run "
            f"learned no loss; in the latter case, `evomal show` with this directory says why."
        )
    return load_loss(path)


def initial_loss(text: str, form: Form) -> SymbolicLoss:
    """A loss given as in `resolve_loss` that can start a search, as it is an expression.

    Raises
    ------
    InputError
        If it is not a loss, or has no expression.
    """
    loss = resolve_loss(text, form)
    if not isinstance(loss, SymbolicLoss):
        raise InputError(
            f"The loss {quoted(text)} is not an expression, so it cannot start a search."
        )
    if loss.link != form.link:
        raise InputError(
            f"The loss {quoted(text)} is for link {loss.link!r}, but the tasks have link "
            f"{form.link!r}; omit it, or give its expression to use it anyway."
        )
    return loss
