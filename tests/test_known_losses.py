"""The losses in the books: which suit a task, what they compute, and how they start a search."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch.nn import functional

from evomal import InputError, Run, load_task, search
from evomal.losses.books import known_for
from evomal.losses.form import Form, Link
from evomal.losses.names import initial_loss
from evomal.losses.target import FocalLoss, GeneralizedCrossEntropyLoss
from evomal.methods.evomal import EvoMALSettings
from evomal.runs.known_losses import known_losses
from handcrafted_losses import classes, draw
from run_helpers import TINY
from tasks_for_tests import classification_task, regression_task


@pytest.mark.parametrize("link", get_args(Link))
@pytest.mark.parametrize("metric", ["mse", "pinball:0.75", "cost:8", "pinball:x", "own metric"])
def test_known_losses_can_start_a_search(link: Link, metric: str) -> None:
    names = known_for(link, metric, 0.03)
    assert len(set(names)) == len(names) >= 5
    for name in names:
        loss = initial_loss(name, Form(link))
        assert loss.link == link
        assert loss.expression.uses_both_arguments()


def test_the_metric_and_the_share_of_positives_add_losses() -> None:
    assert "pinball:0.75" in known_for("identity", "pinball:0.75")
    assert "weighted:8" in known_for("sigmoid", "cost:8")
    assert "weighted:32" in known_for("sigmoid", "error_rate", 0.03)
    assert "weighted:0.11" in known_for("sigmoid", "error_rate", 0.9)
    assert known_for("sigmoid", "error_rate", 0.45) == known_for("sigmoid", "error_rate")
    assert known_for("sigmoid", "error_rate", 0.0) == known_for("sigmoid", "error_rate", 1.0)


def test_the_known_losses_of_tasks_come_from_their_metrics() -> None:
    task = load_task("diabetes/mlp", metric="pinball:0.8")
    names = known_losses([load_task("diabetes/mlp"), task])
    assert names == [*known_for("identity", "mse"), "pinball:0.8"]


def test_binary_focal() -> None:
    pred, target = 3 * draw(50), classes(50, count=2)
    expected = FocalLoss()(torch.stack([torch.zeros_like(pred), pred], dim=1), target)
    found = initial_loss("binary-focal", Form("sigmoid")).double()(pred, target.double())
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_half_generalised_cross_entropy() -> None:
    pred, target = draw(20, 5), classes(20, count=5)
    expected = GeneralizedCrossEntropyLoss(0.5)(pred, target) / 2
    found = initial_loss("half-gce", Form("softmax")).double()(pred, target)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_relaxed_label_smoothing() -> None:
    pred, target = draw(20, 5), classes(20, count=5)
    others = -torch.log1p(-pred.softmax(dim=1)).sum(dim=1).mean()
    expected = functional.cross_entropy(pred, target) + 0.1 * others
    found = initial_loss("relaxed-label-smoothing", Form("softmax")).double()(pred, target)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def resolved(known: list[str], **settings: Any) -> EvoMALSettings:
    chosen = EvoMALSettings(**{"population_size": 12, "known_losses": True, **settings})
    form = Form("identity")
    found = chosen.resolved(lambda text: initial_loss(text, form), known)
    found.validate()
    return found


NAMES = known_for("identity", "pinball:0.8")
PINBALL = "max(sub(y, f), sub(f, y))"


def test_known_losses_follow_the_initial_ones_up_to_half_the_population() -> None:
    given = ("abs(sub(y, f))", "mul(y, f)", "square(sub(y, f))")
    found = resolved(NAMES, initial_losses=given)
    assert found.initial_losses[:3] == given
    assert found.initial_losses[3:] == (
        PINBALL,
        str(initial_loss("huber:1", Form("identity")).expression),
    )
    assert found.initial_weights == ()
    assert resolved(NAMES, initial_losses=given, population_size=6).initial_losses == given
    assert resolved(NAMES, initial_losses=given, population_size=9).initial_losses[3:] == (PINBALL,)
    assert resolved(NAMES, known_losses=False).initial_losses == ()
    low = {"max_height": 2, "max_initial_height": 2}
    assert resolved(NAMES, **low).initial_losses == ("square(sub(y, f))", PINBALL, "abs(sub(y, f))")


def test_with_weights_inherited_losses_that_differ_by_them_are_several() -> None:
    found = resolved(NAMES, inherit_weights=True, initial_losses=("pinball:0.9",))
    assert found.initial_losses.count(PINBALL) == 3
    assert found.initial_weights[0] == pytest.approx((0.9, 1, 1, 0.1, 1, 1))
    again = found.resolved(lambda text: initial_loss(text, Form("identity")), NAMES)
    assert again == found


def test_weights_that_do_not_fit_are_refused() -> None:
    losses = {"initial_losses": ("sub(y, f)",), "inherit_weights": True}
    with pytest.raises(InputError, match="must have one list for every initial loss"):
        resolved(NAMES, **losses, initial_weights=((1.0,),))


@pytest.mark.usefixtures("instant_formulas")
@pytest.mark.parametrize("inherit", [False, True])
def test_generation_0_holds_the_known_losses(inherit: bool, tmp_path: Path) -> None:
    sizes = {**TINY, "population_size": 12, "generations": 1}
    for make in (regression_task, classification_task):
        place = tmp_path / make.__name__
        more: dict[str, Any] = {"known_losses": True, "inherit_weights": inherit}
        run = search(make(), run_dir=place, **sizes, **more)
        settings = Run(place).facts.settings
        assert isinstance(settings, EvoMALSettings)
        count = len(settings.initial_losses)
        assert 4 <= count <= 6
        losses = [outcome.candidate.loss for outcome in run.outcomes[:count]]
        first = initial_loss(known_losses([make()])[0], run.facts.form)
        assert losses[0] is not None
        assert losses[0].to_dict() == first.to_dict()
        assert [str(loss.expression) for loss in losses] == list(settings.initial_losses)  # type: ignore[union-attr]
        if inherit:
            weights = [tuple(loss.phi.tolist()) for loss in losses if loss is not None]
            assert weights == list(settings.initial_weights)
