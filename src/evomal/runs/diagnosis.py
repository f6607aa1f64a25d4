"""Why a search has learned no loss, and what to change."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from evomal.methods.base import Status
from evomal.training.numerics import METRIC
from evomal.training.stages import TRAINING, WEIGHTS

_WHERE = {WEIGHTS: "most while their weights were optimised", TRAINING: "most in training"}


def diagnosis(
    counts: Mapping[Status, int],
    reasons: Sequence[str],
    failures: Sequence[str] = (),
    *,
    task_loss_diverges: bool,
    task_loss_reason: str,
    learned: bool | None,
    learning_rate: float,
    rejection_batch: int,
    check: str,
) -> str:
    """Two or three sentences about a run without an evaluated candidate.

    Parameters
    ----------
    counts
        Number of candidates by outcome.
    reasons
        Reasons of failed and diverged candidates, in order.
    failures
        Reasons of failed candidates.
    task_loss_diverges, task_loss_reason
        Whether training with the task loss itself diverged, and why.
    learned
        Whether the task loss itself beats constant predictions; None if unknown.
    learning_rate
        Learning rate of the base optimiser.
    rejection_batch
        Rows of the rejection protocol.
    check
        The command or call that checks the task.
    """
    rate = f"the learning rate of the task's optimizer, {learning_rate:g}"
    scale = f"Standardise the inputs and the targets, or lower {rate}; {check} tries several."
    if task_loss_diverges and METRIC in task_loss_reason:
        return (
            "After training with the task loss itself, the metric is NaN or infinite on the "
            "validation rows, although the predictions are finite. Check the metric, and that the "
            "validation rows contain everything it needs, such as every class."
        )
    if task_loss_diverges:
        return (
            "Training with the task loss itself diverges: its steps are too large for inputs and "
            f"targets of this scale. {scale}"
        )
    nothing = "" if learned is not False else f" {nothing_learned(check)}"
    own = {status: counts.get(status, 0) for status in ("rejected", "diverged", "failed")}
    worked_on = sum(own.values())
    if not worked_on:
        return f"No candidate has been evaluated yet; continue the search.{nothing}"
    most = max(own, key=lambda status: own[status])
    some = f"All {worked_on}" if own[most] == worked_on else f"{own[most]} of {worked_on}"
    if most == "failed":
        last = f": {failures[-1].rstrip('.')}" if failures else " for an unknown reason"
        return f"{some} candidates failed, the last one{last}. Fix the cause."
    if most == "diverged":
        starts = {stage: sum(reason.startswith(stage) for reason in reasons) for stage in _WHERE}
        stage = max(starts, key=lambda stage: starts[stage])
        where = f", {_WHERE[stage]}" if 2 * starts[stage] > own[most] else ""
        return (
            f"{some} candidates diverged{where}: the steps of the base learner are too large for "
            f"inputs and targets of this scale. {scale}"
        )
    return (
        f"{some} candidates were rejected: when raw outputs were optimised with them, the metric "
        f"was no better on a few training rows (at most {rejection_batch}). Check that the metric "
        "is best for a perfect prediction (see the argument maximize of a task), and that it is "
        f"defined and changes on so few rows. If so, {rate}, or the task's rejection_steps may "
        f"be too small to move the raw outputs.{nothing}"
    )


def nothing_learned(check: str) -> str:
    """The message if no training predicts better than a constant.

    `check` is the command or call that checks the task.
    """
    return (
        "Not even the task loss predicts better than a constant after so few training steps, and a "
        "longer search does not change that: raise testing_steps or change the learning rate; "
        f"{check} shows what works."
    )
