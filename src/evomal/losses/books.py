"""The losses in the books that suit a task, by its link and metric."""

from __future__ import annotations

import re

from evomal.losses.form import Link

_BALANCED = 1.5
"""A class that has at most so many times the rows of the other one needs no weight."""


def known_for(link: Link, metric: str, positives: float | None = None) -> list[str]:
    """The names of losses that an expert would try on a task, the usual one first.

    All of them are expressions.

    Parameters
    ----------
    link
        The link of the task.
    metric
        The name of its metric: those such as ``pinball:0.9`` and ``cost:10`` have a loss of their
        own.
    positives
        The fraction of positive targets, with link ``"sigmoid"``; None if it is not known.
    """
    found = re.fullmatch(r"(\w+):([\d.eE+-]+)", metric)
    kind, number = found.groups() if found else ("", "")
    if link == "identity":
        names = ["squared-error", "absolute-error", "huber:1", "pinball:0.1", "pinball:0.9"]
        own = [f"pinball:{number}"] if kind == "pinball" else []
    elif link == "sigmoid":
        names = ["binary-cross-entropy", "squared-error", "binary-focal"]
        names += ["weighted:3", "weighted:10", "weighted:30"]
        own = [f"weighted:{number}"] if kind == "cost" else []
        own += _weighted_by(positives)
    else:
        names = ["cross-entropy", "focal", "half-gce", "relaxed-label-smoothing"]
        names += ["squared-error", "absolute-error"]
        own = []
    return list(dict.fromkeys([names[0], *own, *names[1:]]))


def _weighted_by(positives: float | None) -> list[str]:
    """The weighted loss for which both classes count the same, unless they do anyway."""
    if positives is None or not 0 < positives < 1:
        return []
    ratio = (1 - positives) / positives
    balanced = 1 / _BALANCED <= ratio <= _BALANCED
    return [] if balanced else [f"weighted:{float(f'{ratio:.2g}'):g}"]
