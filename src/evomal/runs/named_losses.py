"""Losses by what a user calls them: a run directory, a loss file, a known name, an expression."""

from __future__ import annotations

import os
import re
from typing import Any

from evomal.errors import InputError, quoted, require_name
from evomal.expressions.symbolic import printed_forms
from evomal.losses.base import Loss
from evomal.losses.files import load_loss
from evomal.losses.form import Form
from evomal.losses.handcrafted import HandcraftedLoss
from evomal.losses.known import HANDCRAFTED_LOSSES, KNOWN_LOSSES, handcrafted
from evomal.losses.python_form import python_form
from evomal.losses.symbolic import SymbolicLoss
from evomal.runs.run import Run, print_request


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
        return Run(text).best.loss
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


def describe_loss(loss: Loss) -> dict[str, Any]:
    """A loss outside any run, with its printed forms, as JSON values."""
    if isinstance(loss, HandcraftedLoss):
        settings = {name: getattr(loss, name) for name in loss.setting_names}
        return {
            "formula": loss.formula,
            "python": python_form(loss),
            "link": loss.link,
            "inputs": [],
            "parameters": settings,
        }
    fields: dict[str, Any] = {
        "nodes": loss.size,
        "link": loss.link,
        "inputs": list(loss.inputs),
        "python": python_form(loss),
        "phi": loss.phi.tolist(),
    }
    if isinstance(loss, SymbolicLoss):
        (form,) = printed_forms([print_request(loss)])
        fields |= {"expression": str(loss.expression), "formula": form.formula, "latex": form.latex}
    return fields
