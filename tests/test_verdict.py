"""The verdict: interval, failures, and the sentence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import pytest
from scipy import stats

from evomal.runs.scale import Scale
from evomal.runs.verdict import judge
from evomal.training.retraining import Retrained

LOWER, HIGHER = Scale(["mean_squared_error"], ["minimize"]), Scale(["accuracy"], ["maximize"])


def seeds(*values: float, resampled: Sequence[Sequence[float]] = ()) -> list[list[Retrained]]:
    rows = resampled or [()] * len(values)
    return [[Retrained((value,), 1.0, tuple(row))] for value, row in zip(values, rows, strict=True)]


def test_the_interval_by_hand() -> None:
    learned, own = (0.1, 0.2, 0.4), (0.5, 0.4, 0.6)
    verdict = judge(seeds(*learned), seeds(*own))
    differences = [-0.4, -0.2, -0.2]
    error = math.sqrt(sum((d + 0.8 / 3) ** 2 for d in differences) / 2 / 3)
    reach = stats.t.ppf(0.975, 2) * error
    assert verdict.difference == pytest.approx(-0.8 / 3)
    assert verdict.interval == pytest.approx((-0.8 / 3 - reach, -0.8 / 3 + reach))
    assert (verdict.wins, verdict.seeds) == (3, 3)


def test_the_variation_over_rows_widens_it() -> None:
    learned = seeds(0.1, 0.2, resampled=[(0.0, 0.2, 0.4), (0.0, 0.2, 0.4)])
    own = seeds(0.3, 0.5, resampled=[(0.4, 0.4, 0.4), (0.4, 0.4, 0.4)])
    wide, narrow = judge(learned, own), judge(seeds(0.1, 0.2), seeds(0.3, 0.5))
    assert wide.interval is not None
    assert narrow.interval is not None
    by_seed, by_row = 0.005 / 2, 0.04  # variances of (-0.2, -0.3) / 2 and of (-0.4, -0.2, 0)
    ratio = math.sqrt((by_seed + by_row) / by_seed)
    width = wide.interval[1] - wide.interval[0]
    assert width == pytest.approx(ratio * (narrow.interval[1] - narrow.interval[0]))


def test_rows_where_the_metric_is_undefined_are_left_out() -> None:
    learned = [[replace(row[0], resampled=(None, 0.1, 0.3))] for row in seeds(0.1, 0.2)]
    own = seeds(0.3, 0.5, resampled=[(9.0, 0.2, 0.2), (9.0, 0.2, 0.2)])
    verdict = judge(learned, own)
    assert verdict.interval is not None
    reach = stats.t.ppf(0.975, 1) * math.sqrt(0.005 / 2 + 0.02)
    assert verdict.interval[1] == pytest.approx(-0.25 + reach)


@pytest.mark.parametrize(
    ("scale", "sentence"),
    [
        (
            LOWER,
            "Better than the tuned task loss: validation mean squared error 0.2 against 0.51, "
            "better on 3 of 3 seeds, difference -0.31 [-0.335, -0.285].",
        ),
        (
            HIGHER,
            "Better than the tuned task loss: validation accuracy -0.2 against -0.51, "
            "better on 3 of 3 seeds, difference 0.31 [0.285, 0.335].",
        ),
    ],
)
def test_the_sentence(scale: Scale, sentence: str) -> None:
    verdict = judge(seeds(0.1, 0.2, 0.3), seeds(0.42, 0.5, 0.61))
    assert verdict.better
    assert verdict.sentence(scale, "it") == sentence
    assert verdict.to_dict(scale)["better"] is True


def test_where_a_training_fails() -> None:
    own, failed = seeds(0.5, 0.6, 0.7), [Retrained((), 1.0)]
    lucky = judge(seeds(0.1, 0.2, 0.9), [*own[:2], failed])
    assert (lucky.wins, lucky.task_loss_failed, lucky.interval) == (3, 1, None)
    assert lucky.learned == pytest.approx(0.15)
    assert lucky.task_loss == pytest.approx(0.55)
    assert lucky.better
    assert not judge(seeds(0.1, 0.9, 0.9), [*own[:2], failed]).better, "not on all other seeds"
    assert not judge([*seeds(0.1, 0.2), failed], own).better
    undefined = [[Retrained((0.1, None), 1.0)]] * 3
    assert judge(undefined, own).failed == 3


def test_without_enough_defined_rows_nothing_is_shown() -> None:
    learned = [[replace(row[0], resampled=(None, None, 0.3))] for row in seeds(0.1, 0.2)]
    verdict = judge(learned, seeds(0.3, 0.5, resampled=[(9.0, 0.2, 0.2)] * 2))
    assert (verdict.interval, verdict.better) == (None, False)


def test_a_tiny_difference_does_not_count() -> None:
    own = [1.0, 1.1, 1.2]
    assert not judge(seeds(*(x - 1e-4 - 1e-9 * x for x in own)), seeds(*own)).better
    assert judge(seeds(*(x - 1e-2 - 1e-9 * x for x in own)), seeds(*own)).better


def test_equal_losses_are_not_better() -> None:
    verdict = judge(seeds(0.1, 0.2), seeds(0.1, 0.2))
    assert (verdict.better, verdict.interval, verdict.wins) == (False, None, 0)
    sentence = verdict.sentence(LOWER, "it")
    assert sentence.startswith("Not shown to be better than the tuned task loss; use that: ")
