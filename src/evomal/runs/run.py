"""A run as its directory holds it: finished, interrupted or still going."""

from __future__ import annotations

import json
import os
import re
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from evomal.errors import InputError, quoted, require_name
from evomal.expressions.symbolic import PrintedForm, PrintRequest, printed_forms
from evomal.losses.base import Loss
from evomal.losses.files import load_loss
from evomal.losses.form import Form
from evomal.losses.handcrafted import HandcraftedLoss
from evomal.losses.known import HANDCRAFTED_LOSSES, KNOWN_LOSSES, handcrafted
from evomal.losses.symbolic import SymbolicLoss
from evomal.methods.base import STATUSES, Archive, Generation, Outcome
from evomal.runs.directory import is_in_use
from evomal.runs.store import RunStore


@dataclass(frozen=True)
class BestLoss:
    """A loss of the hall of fame.

    Attributes
    ----------
    loss
        The module itself: ``loss(pred, target)``.
    fitness
        Metric on validation data after partial training; lower is better.
    nodes
        Number of nodes, or of weights where there is no expression.
    expression, formula, latex
        Prefix form without weights; simplified infix form and LaTeX with weights. None for
        methods without expressions.
    """

    loss: Loss
    fitness: float
    nodes: int
    expression: str | None
    formula: str | None
    latex: str | None

    def to_dict(self) -> dict[str, Any]:
        """As JSON values."""
        return {
            "expression": self.expression,
            "formula": self.formula,
            "latex": self.latex,
            "nodes": self.nodes,
            "fitness": self.fitness,
            "weights": self.loss.weights.tolist(),
        }


class Run:
    """A read-only view of a run directory, as it is at this moment.

    Raises
    ------
    InputError
        If the directory holds no readable run.
    """

    def __init__(self, run_dir: str | os.PathLike[str]) -> None:
        self.run_dir = Path(run_dir)
        store = RunStore.open(self.run_dir)
        try:
            self.facts: dict[str, Any] = store.facts()
            if self.facts.get("status") == "running" and not is_in_use(self.run_dir):
                self.facts = store.facts()  # it may have ended just now
                if self.facts["status"] == "running":
                    self.facts["status"] = "killed"
            self.generations: list[tuple[Generation, float]] = store.generations()
            self.archive = Archive()
            self.failures: list[Outcome] = []
            self.seconds: dict[str, float] = {}
            for outcome in store.outcomes():
                self.archive.add(outcome)
                if outcome.status == "failed":
                    self.failures.append(outcome)
                for stage, seconds in outcome.seconds.items():
                    self.seconds[stage] = self.seconds.get(stage, 0.0) + seconds
            self._printed_forms = store.printed_forms()
        except (sqlite3.Error, ValueError, LookupError, TypeError) as error:
            raise InputError(f"The run in {str(run_dir)!r} cannot be read: {error}.") from error
        finally:
            store.close()

    @cached_property
    def hall_of_fame(self) -> list[BestLoss]:
        """The best loss for each number of nodes, fewest nodes first."""
        fame = sorted(self.archive.hall_of_fame.items())
        return describe([outcome for _, outcome in fame], self._printed_forms)

    @property
    def best(self) -> BestLoss:
        """The best loss of the run.

        Raises
        ------
        InputError
            If no candidate was good enough to be trained, or the method learns no loss.
        """
        best = self._best
        if best is None:
            raise InputError(
                f"The run in {str(self.run_dir)!r} holds no learned loss; search longer or with "
                "another seed."
            )
        return best

    @property
    def task_names(self) -> list[str]:
        """Names of the tasks that the loss was learned on."""
        task = self.facts["task"]
        return [task] if isinstance(task, str) else list(task)

    @property
    def task_loss_fitness(self) -> float | None:
        """What the task loss itself scores; None if it diverges or is not known yet."""
        value: float | None = self.facts.get("task_loss_fitness")
        return value

    @property
    def beats_task_loss(self) -> bool | None:
        """Whether the best loss scores better than the task loss; None if one has no score."""
        best, own = self.archive.best, self.task_loss_fitness
        return None if best is None or best.loss is None or own is None else best.fitness < own

    @property
    def _best(self) -> BestLoss | None:
        best = [self.archive.best] if self.archive.best else []
        return next(iter(describe(best, self._printed_forms)), None)

    def summary(self) -> dict[str, Any]:
        """Everything about the run as JSON values; times and dates only under ``timing``."""
        best = self._best
        facts = self.facts
        return {
            "best": None if best is None else best.to_dict(),
            "task_loss_fitness": self.task_loss_fitness,
            "beats_task_loss": self.beats_task_loss,
            "hall_of_fame": [entry.to_dict() for entry in self.hall_of_fame],
            "outcomes": {status: self.archive.counts[status] for status in STATUSES},
            "failures": [
                {"number": outcome.candidate.number, "reason": outcome.reason}
                for outcome in self.failures
            ],
            "generations": [
                {"best": generation.best, "mean": generation.mean, **generation.counts}
                for generation, _ in self.generations
            ],
            "task": facts["task"],
            "split": facts["split"],
            "metric": facts["metric"],
            "method": facts["method"],
            "seed": facts["seed"],
            "settings": facts["settings"],
            "status": facts["status"],
            "stop_reason": facts.get("stop_reason"),
            "device": facts["device"],
            "versions": facts["versions"],
            "run_dir": str(self.run_dir),
            "timing": {
                "started": facts["started"],
                "seconds": facts.get("seconds"),
                "stages": self.seconds,
                "generations": [seconds for _, seconds in self.generations],
            },
        }


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
        return {"formula": loss.formula, "link": loss.link, "inputs": [], "parameters": settings}
    fields: dict[str, Any] = {
        "nodes": loss.size,
        "link": loss.link,
        "inputs": list(loss.inputs),
        "weights": loss.weights.tolist(),
    }
    if isinstance(loss, SymbolicLoss):
        (form,) = printed_forms([print_request(loss)])
        fields |= {"expression": str(loss.expression), "formula": form.formula, "latex": form.latex}
    return fields


def print_key(request: PrintRequest) -> str:
    """Under what a printed form is kept."""
    weights = None if request.weights is None else list(request.weights)
    return json.dumps([str(request.expression), weights, request.probabilities])


def print_request(loss: SymbolicLoss) -> PrintRequest:
    """How a loss is printed: with its weights, f and y as probabilities unless f = pred."""
    return PrintRequest(loss.expression, loss.weights.tolist(), loss.link != "identity")


def describe(outcomes: Sequence[Outcome], known: dict[str, PrintedForm]) -> list[BestLoss]:
    """Outcomes with their printed forms; those not in `known` are asked of sympy, and added."""
    losses = [o.loss for o in outcomes if isinstance(o.loss, SymbolicLoss)]
    missing = [r for r in map(print_request, losses) if print_key(r) not in known]
    known.update(zip(map(print_key, missing), printed_forms(missing), strict=True))
    described = []
    for outcome in outcomes:
        if outcome.loss is None:
            continue
        expression = formula = latex = None
        if isinstance(outcome.loss, SymbolicLoss):
            form = known[print_key(print_request(outcome.loss))]
            expression, formula, latex = str(outcome.loss.expression), form.formula, form.latex
        described.append(
            BestLoss(
                outcome.loss, outcome.fitness, outcome.candidate.size, expression, formula, latex
            )
        )
    return described
