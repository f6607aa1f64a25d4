"""Paired statistics: by hand and against scipy; ties, diverged trainings, several splits."""

from __future__ import annotations

import json

import pytest
from scipy import stats

from evomal.training.paired import paired_difference

A = [0.50, 0.41, 0.62, 0.37, 0.55, 0.48, 0.40]
B = [0.61, 0.40, 0.75, 0.52, 0.58, 0.66, 0.49]


def test_against_scipy() -> None:
    found = paired_difference(A, B, maximize=False)
    expected = stats.ttest_rel(A, B)
    assert found.t_test == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert found.wilcoxon == pytest.approx(stats.wilcoxon(A, B).pvalue)
    assert (found.wins, found.ties, found.losses, found.left_out) == (6, 0, 1, 0)
    assert found.unit == "seed"


def test_by_hand() -> None:
    found = paired_difference([1.0, 2.0, 6.0], [2.0, 4.0, 9.0], maximize=True)
    assert found.difference == -2.0  # of -1, -2, -3: standard deviation 1, t with 2 degrees 4.3027
    assert found.interval == pytest.approx((-2 - 4.302653 / 3**0.5, -2 + 4.302653 / 3**0.5))
    assert found.wilcoxon == pytest.approx(0.25)  # 2 of 2³ signs
    assert (found.wins, found.losses) == (0, 3)
    assert paired_difference([1.0, 2.0], [2.0, 4.0], maximize=False).wins == 2


def test_pairs_without_a_difference() -> None:
    found = paired_difference([1.0, 2.0, 3.0, 5.0], [1.0, 3.0, 5.0, 8.0], maximize=False)
    assert (found.wins, found.ties, found.losses) == (3, 1, 0)
    assert found.difference == -1.5
    assert found.wilcoxon == pytest.approx(0.25)  # of the three that differ
    assert found.t_test == pytest.approx(stats.ttest_1samp([0, -1, -2, -3], 0).pvalue)


def test_a_diverged_training_loses_its_pair_and_is_left_out() -> None:
    values, reference = [None, *A, 0.1, None], [0.5, *B, None, None]
    found, rest = (
        paired_difference(values, reference, maximize=False),
        paired_difference(A, B, maximize=False),
    )
    assert (found.wins, found.ties, found.losses, found.left_out) == (7, 1, 2, 3)
    assert found.interval == rest.interval
    assert (found.difference, found.t_test) == (rest.difference, rest.t_test)
    upwards = paired_difference([None, 1.0], [-5.0, None], maximize=True)
    assert (upwards.wins, upwards.losses, upwards.difference) == (1, 1, None)


def test_several_splits_count_as_one_observation_each() -> None:
    values = [1.0, 2.0, 5.0, 7.0, 3.0, None]
    reference = [2.0, 3.0, 5.0, 8.0, 5.0, 1.0]
    found = paired_difference(values, reference, maximize=False, splits=3)
    means = [-1.0, -0.5, -2.0]
    expected = stats.ttest_1samp(means, 0)
    assert found.unit == "split"
    assert found.difference == pytest.approx(sum(means) / 3)
    assert found.t_test == pytest.approx(expected.pvalue)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert (found.wins, found.ties, found.losses, found.left_out) == (4, 1, 1, 1)
    gone = paired_difference([None, None, 1.0], [1.0, 1.0, 2.0], maximize=False, splits=3)
    assert (gone.difference, gone.interval) == (-1.0, None)


@pytest.mark.parametrize(
    ("values", "difference"),
    [([1.0], 0.5), ([None], None), ([1.0, 1.0, 1.0], 0.5), ([0.5, 0.5], 0.0)],
    ids=str,
)
def test_what_cannot_be_computed_is_none(
    values: list[float | None], difference: float | None
) -> None:
    found = paired_difference(values, [0.5] * len(values), maximize=False)
    assert (found.difference, found.interval, found.t_test) == (difference, None, None)
    assert json.loads(json.dumps(found.to_dict()))["interval"] is None
    if len(values) < 2 or difference == 0:
        assert found.wilcoxon is None
