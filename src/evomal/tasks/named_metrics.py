"""Metrics by name: those of this package, and scikit-learn's scorers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from evomal.errors import InputError, first_line, quoted, require_name
from evomal.losses.form import Form, Link
from evomal.tasks import arguments
from evomal.tasks.checks import OWN_CODE_ERRORS
from evomal.tasks.functions import function_name
from evomal.tasks.metrics import (
    Metric,
    PerformanceMetric,
    default_metric,
    mean_absolute_error,
    mean_cost,
    mean_squared_error,
    pinball_loss,
    root_mean_squared_error,
)
from evomal.tasks.scorers import scored

_CLASSES: tuple[Link, ...] = ("softmax", "sigmoid")
_VALUES: tuple[Link, ...] = ("identity",)

_OF_VALUES: dict[str, Metric] = {
    "mae": mean_absolute_error,
    "mean_absolute_error": mean_absolute_error,
    "mse": mean_squared_error,
    "mean_squared_error": mean_squared_error,
    "rmse": root_mean_squared_error,
}
_ERROR_RATE = ("error_rate", "error-rate")
_WITH_NUMBER: dict[str, tuple[Link, ...]] = {"pinball": _VALUES, "cost": _CLASSES}

_OF_CLUSTERS = {
    *("adjusted_mutual_info_score", "adjusted_rand_score", "completeness_score"),
    *("fowlkes_mallows_score", "homogeneity_score", "mutual_info_score"),
    *("normalized_mutual_info_score", "rand_score", "v_measure_score"),
}
"""Scorers for clusters, whose names do not matter: no metrics of predictions."""

_REGRESSION = ("neg_mean_", "neg_max_", "neg_median_", "neg_root_", "r2", "explained_", "d2_abs")
"""How the names of the scorers for regression begin."""

_SUCH_AS = {
    "softmax": "error_rate, balanced_accuracy, f1_macro or roc_auc_ovr",
    "sigmoid": "error_rate, f1_macro or roc_auc",
    "identity": "mse, mae, r2 or pinball:0.9",
}


def resolve_metric(metric: Any, form: Form, *, maximize: bool) -> PerformanceMetric:
    """The metric of a task, from its name, a function, or None for the default.

    Raises
    ------
    InputError
        If the name is unknown, or the metric is for another link or has another direction.
    """
    maximize = arguments.flag(maximize, "argument maximize")
    if metric is None or isinstance(metric, str | PerformanceMetric):
        found = _known(metric, form)
        if maximize and not found.maximize:
            raise InputError(
                f"The metric {found.name!r} is lower for better predictions; omit maximize=True."
            )
        return found
    function = arguments.required_function(metric, "metric", "(pred, target), or a name")
    return PerformanceMetric(function_name(function), function, maximize)


def resolve_report(
    report: Any, form: Form, metric: PerformanceMetric
) -> tuple[PerformanceMetric, ...]:
    """The metrics that are reported beside the one of a task.

    Raises
    ------
    InputError
        As in `resolve_metric`; also if two metrics have the same name.
    """
    found = [resolve_metric(one, form, maximize=False) for one in _listed(report)]
    names = [metric.name]
    for one in found:
        if one.name in names:
            raise InputError(f"The metric {one.name!r} is given twice; report others beside it.")
        names.append(one.name)
    return tuple(found)


def _listed(report: Any) -> Sequence[Any]:
    if isinstance(report, str):
        raise InputError(f"The argument report must be a list of metrics: [{quoted(report)}].")
    return arguments.listed(report, "argument report")


def require_suitable(metrics: Sequence[PerformanceMetric], form: Form, pred: Tensor) -> None:
    """Raise an `InputError` if a named metric cannot judge perfect predictions of such a shape.

    `pred` are outputs for a few rows. The other metrics are functions of the user, who knows.
    """
    for metric in metrics:
        if getattr(metric.function, "func", None) not in (scored, mean_cost):
            continue
        outputs, targets, what = _made_up(form, pred)
        try:
            metric.function(outputs, targets)
        except OWN_CODE_ERRORS as error:
            raise InputError(
                f"The metric {metric.name!r} does not suit {what} "
                f"({first_line(error).split('. ')[0].rstrip('.')}); choose another one, such as "
                f"{_SUCH_AS[form.link]}."
            ) from error


def _known(metric: str | PerformanceMetric | None, form: Form) -> PerformanceMetric:
    if isinstance(metric, PerformanceMetric):
        return metric
    if metric is None:
        function = default_metric(form)
        return PerformanceMetric(function_name(function), function)
    kind, colon, number = metric.partition(":")
    if colon and kind in _WITH_NUMBER:
        _require_link(metric, _WITH_NUMBER[kind], form)
        return PerformanceMetric(metric, _with_number(kind, number, metric, form))
    scorers = _scorers()
    links = {
        **dict.fromkeys(_OF_VALUES, _VALUES),
        **dict.fromkeys(_ERROR_RATE, _CLASSES),
        **{name: links for name, (_, _, links) in scorers.items()},
    }
    examples = [f"{name}:{10 if name == 'cost' else 0.9}" for name in _WITH_NUMBER]
    listing = (
        f"choose one of scikit-learn's scorers, such as {_SUCH_AS[form.link]}, or pass a function"
    )
    require_name("metric", metric, [*links, *examples], listing)
    _require_link(metric, links[metric], form)
    if metric in _ERROR_RATE:
        return PerformanceMetric(metric, default_metric(form))
    if metric in _OF_VALUES:
        return PerformanceMetric(metric, _OF_VALUES[metric])
    scorer, sign, _ = scorers[metric]
    function = partial(
        scored, scorer=scorer, sign=sign, link=form.link, ignore_index=form.ignore_index
    )
    return PerformanceMetric(metric, function, maximize=sign > 0)


def _with_number(kind: str, text: str, metric: str, form: Form) -> Callable[..., float]:
    """``"pinball:0.9"`` and ``"cost:10"``."""
    try:
        number = float(text)
    except ValueError:
        number = float("nan")
    if kind == "pinball":
        if not 0 < number < 1:
            raise InputError(
                f"The metric {quoted(metric)} needs a quantile between 0 and 1, as in pinball:0.9."
            )
        return partial(pinball_loss, quantile=number)
    if not 0 < number < float("inf"):
        raise InputError(
            f"The metric {quoted(metric)} needs the cost of a false negative, a number above 0, as "
            "in cost:10."
        )
    return partial(mean_cost, cost=number, ignore_index=form.ignore_index)


def _scorers() -> dict[str, tuple[str, int, tuple[Link, ...]]]:
    """scikit-learn's scorers, the sign of their values, and their links, by name.

    They are all higher for better predictions; those called ``neg_...`` are also known without the
    prefix, where lower is better.
    """
    from sklearn.metrics import get_scorer_names  # takes as long to import as torch

    names = [name for name in get_scorer_names() if name not in _OF_CLUSTERS]
    links = {name: _VALUES if name.startswith(_REGRESSION) else _CLASSES for name in names}
    plain = {
        name.removeprefix("neg_"): (name, -1, links[name])
        for name in names
        if name.startswith("neg_")
    }
    return {name: (name, 1, links[name]) for name in names} | plain


def _require_link(metric: str, links: tuple[Link, ...], form: Form) -> None:
    if form.link not in links:
        kind = "regression" if links == _VALUES else "classification"
        raise InputError(
            f"The metric {quoted(metric)} is for {kind}, but the task has link {form.link!r}; "
            f"choose another one, such as {_SUCH_AS[form.link]}."
        )


def _made_up(form: Form, pred: Tensor) -> tuple[Tensor, Tensor, str]:
    """Perfect predictions of every class, their targets, and a phrase for them."""
    if form.link == "softmax":
        count = pred.shape[1]
        classes = torch.arange(2 * count) % count
        if 0 <= form.ignore_index < count:
            classes = classes[classes != form.ignore_index]
        return 20 * torch.eye(count)[classes], classes, f"{count} classes"
    if form.link == "sigmoid":
        labels = pred.shape[1] if pred.ndim == 2 else 1
        targets = (torch.arange(4) % 2).double()[:, None].expand(4, labels)
        what = "two classes" if labels == 1 else f"{labels} labels per row"
        return 20 * targets - 10, targets, what
    values = pred.shape[1] if pred.ndim == 2 else 1
    numbers = torch.arange(1.0, 5.0)[:, None].expand(4, values)
    return numbers, numbers, "regression" if values == 1 else f"{values} values per row"
