"""Base learners in other precisions than their own; on a CPU, where bfloat16 is only slower."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

import evomal
from evomal import SymbolicLoss, Task
from evomal.cli import main
from evomal.runs.work import screen_candidates, train_candidates
from evomal.tasks.precision import Precision, float32_precisions, products_in
from evomal.training import settings as settings_module
from evomal.training.engines.choice import with_engine
from evomal.training.hypergradient.forward import forward_hypergradient
from evomal.training.hypergradient.group import group_hypergradients
from evomal.training.hypergradient.reverse import reverse_hypergradient
from evomal.training.meta_schedule import MetaSchedule
from evomal.training.settings import EvaluationSettings, Pipeline
from evomal.training.support import group_way
from evomal.training.workbench import Workbench
from run_helpers import run_python, tiny_settings
from tasks_for_tests import TEXTS, classification_task, image_task, regression_task

MAKE = {"regression": regression_task, "classes": classification_task, "images": image_task}
NEAR = 0.05  # of the largest: bfloat16 has 8 bits


@pytest.mark.parametrize("name", MAKE)
def test_outputs_in_bfloat16_are_near_and_in_single_precision(name: str) -> None:
    task = MAKE[name]()
    rows = task.batch(task.train, slice(0, 8)).inputs
    both = (task, task.in_precision("bfloat16"))
    full, low = (one.call(one.new_model(1).eval(), rows) for one in both)
    assert low.dtype == torch.float32
    assert not torch.equal(low, full)
    torch.testing.assert_close(low, full, rtol=0, atol=NEAR * float(full.detach().abs().max()))


@pytest.mark.parametrize("name", ["regression", "classes"])  # dropout draws by type
def test_hypergradients_in_bfloat16_are_near_in_every_engine(name: str) -> None:
    task = MAKE[name]()
    low = task.in_precision("bfloat16")
    assert group_way(task, stacked=False).layers
    assert not group_way(low, stacked=False).layers
    settings = EvaluationSettings(meta_steps=1)
    steps = [MetaSchedule(one, settings, 3).step(0) for one in (task, low)]
    for text in TEXTS:
        loss = SymbolicLoss(text, link=task.link)
        phi = loss.phi.clone().requires_grad_()
        full = forward_hypergradient(loss, phi, steps[0])
        found = {
            "forward": forward_hypergradient(loss, phi, steps[1]),
            "reverse": reverse_hypergradient(loss, phi, steps[1]),
            "batched": group_hypergradients([loss], [phi], steps[1], stacked=False).gradients[0],
            "stacked": group_hypergradients([loss], [phi], steps[1], stacked=True).gradients[0],
        }
        for gradient in found.values():
            assert gradient.dtype == torch.float32
            assert torch.cosine_similarity(gradient, full, dim=0) > 0.95
            assert 0.7 < float(gradient.norm() / full.norm()) < 1.4


@pytest.mark.parametrize("engine", ["loop", "batched", "stacked"])
def test_candidates_are_worked_on_in_the_precision_of_the_settings(engine: Any) -> None:
    task = image_task()
    losses = [SymbolicLoss(text, link=task.link) for text in TEXTS[::2]]
    screened, trained = [], []
    for precision in ("full", "bfloat16"):
        settings = EvaluationSettings(
            meta_steps=3, testing_steps=10, rejection_batch=8, engine=engine, precision=precision
        )
        bench = Workbench([task], settings, 0)
        screened.append(screen_candidates(bench, losses, Pipeline(True, False, False)))
        fitness = train_candidates(bench, losses, 0)
        trained.append([training.curve[-1] for training in fitness])
    assert trained[0] == pytest.approx(trained[1], abs=0.25)
    for one, other in zip(*screened, strict=True):
        assert one.loss is not None
        assert other.loss is not None
        assert not torch.equal(one.loss.phi, other.loss.phi)
        torch.testing.assert_close(one.loss.phi, other.loss.phi, rtol=0, atol=0.01)


@pytest.mark.usefixtures("instant_formulas")
def test_the_precision_of_a_run_is_recorded_shown_and_changes_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = [
        evomal.search(
            regression_task(),
            run_dir=tmp_path / precision,
            seed=1,
            settings=replace(tiny_settings(), precision=precision),
        )
        for precision in get_args(Precision)
    ]
    best = {name: run.best.fitness for name, run in zip(get_args(Precision), runs, strict=True)}
    assert best["full"] == best["tf32"] != best["bfloat16"]  # a CPU has no TensorFloat-32
    shown = []
    for run in runs:
        assert main(["show", str(run.run_dir)]) == 0
        shown.append(" ".join(capsys.readouterr().out.split()))
    assert [f"precision {name}" in text for name, text in zip(best, shown, strict=True)] == [
        False,
        True,
        True,
    ]


def test_tensor_float_32_inside_the_block_only() -> None:
    before = float32_precisions()
    with products_in("tf32"):
        inside = float32_precisions()
        assert inside["cuda.matmul"] == inside["cudnn.conv"] == "tf32"
        assert inside["mkldnn.matmul"] == before["mkldnn.matmul"]
    assert float32_precisions() == before
    with products_in("bfloat16"):
        assert float32_precisions() == before


def test_a_search_where_a_backend_was_set_by_its_own_switch(tmp_path: Path) -> None:
    code = (
        "import sys, torch, evomal; from tasks_for_tests import regression_task\n"
        "if __name__ == '__main__':\n"
        "    torch.backends.cuda.matmul.fp32_precision = 'tf32'\n"
        "    for precision in ('full', 'tf32'):\n"
        "        evomal.search(regression_task(), method='ml3', precision=precision, "
        "meta_steps=2, testing_steps=5, run_dir=sys.argv[1] + precision)\n"
        "    print(torch.backends.cuda.matmul.fp32_precision)"
    )
    status, output, errors = run_python("-c", code, str(tmp_path / "run"))
    assert (status, output.split()[-1:]) == (0, ["tf32"]), errors


def test_bfloat16_is_for_single_precision() -> None:
    settings = EvaluationSettings(precision="bfloat16")
    with pytest.raises(evomal.InputError, match="needs base learners with float32 parameters"):
        with_engine(settings, [regression_task(torch.float64)], tunes=True)


def test_every_engine_is_chosen_as_in_full_precision() -> None:
    task: Task = classification_task()
    for precision in ("tf32", "bfloat16"):
        settings = EvaluationSettings(precision=precision)
        assert with_engine(settings, [task], tunes=True).settings.engine == "batched"
    assert get_args(Precision) == get_args(settings_module.Precision)
    with pytest.raises(evomal.InputError, match="precision must be full, tf32 or bfloat16"):
        EvaluationSettings(precision="half").validate()  # type: ignore[arg-type]
