"""Representations of test rows in the last hidden layer, by loss (paper, A.6, A.11, figs 12, 18).

Run: python examples/representations.py mnist/lenet5 --figure tsne.png

The networks start from the same initial weights and see the same batches.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.manifold import TSNE
from sklearn.metrics import silhouette_score
from torch import Tensor, nn
from training_curves import (
    LOSS_HELP,
    LOSSES,
    at_least_one,
    classification_task,
    named_loss,
    require_figure,
    some_rows,
)

import evomal
from evomal.runs.execution import available_cores
from evomal.runs.executors import WorkError
from evomal.runs.processes import LocalProcesses
from evomal.seeding import isolated_rng
from evomal.tasks.data import Data
from evomal.training.loop import evaluation_batches, performance, train
from evomal.training.numerics import DivergedError
from evomal.training.settings import EvaluationSettings
from evomal.training.workbench import Workbench

EXAMPLES = """\
examples:
  python examples/representations.py mnist/lenet5 --figure tsne.png
  python examples/representations.py cifar10/alexnet --steps 5000 --figure tsne.png \\
      --losses label-smoothing:smoothing=0.4 sparse-label-smoothing:smoothing=0.4
"""
LEAST_ROWS = 50
WEIGHTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class Trained:
    """A trained network's test error and its representations (rows, features) of some rows."""

    test_error: float
    representations: NDArray[np.float32]


def weighted_layers(learner: nn.Module) -> list[nn.Module]:
    """All linear and convolutional layers."""
    return [module for module in learner.modules() if isinstance(module, WEIGHTED)]


@torch.no_grad()
def representations(task: evomal.Task, learner: nn.Module, data: Data) -> Tensor:
    """The inputs of the last linear or convolutional layer, (rows, features), in eval mode.

    Feature maps are averaged over their positions, as after a last convolution.
    """
    entered: list[Tensor] = []

    def keep(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        entered[:] = inputs[:1]  # later layers overwrite earlier ones

    hooks = [layer.register_forward_pre_hook(keep) for layer in weighted_layers(learner)]
    pieces: list[Tensor] = []
    learner.eval()
    try:
        with isolated_rng(task.device, 0):
            for batch in evaluation_batches(task, data):
                learner(batch.inputs)
                pieces.append(entered[0].clone())
    finally:
        for hook in hooks:
            hook.remove()
    found = torch.cat(pieces)
    return found.flatten(2).mean(2) if found.ndim > 2 else found


def trained(bench: Workbench, loss_name: str, steps: int, seed: int, data: Data) -> Trained | None:
    """Train one network; None if it diverges."""
    (task,) = bench.tasks
    assert task.test is not None
    loss = named_loss(loss_name, task).to(task.device)
    stream = (seed, "representations", task.name)
    try:
        learner = train(task, loss, steps, stream=stream, meta_testing=True)
        error = performance(task, learner, task.test)
    except DivergedError:
        return None
    data = data.to(task.device)
    return Trained(error, representations(task, learner, data).float().cpu().numpy())


def train_all(
    task: evomal.Task, losses: Sequence[str], steps: int, seed: int, data: Data, workers: int
) -> dict[str, Trained]:
    """One network for every loss.

    Raises
    ------
    InputError
        If a training diverges.
    """
    found = {}
    processes = LocalProcesses([task], EvaluationSettings(), 0, min(workers, len(losses)))
    try:
        futures = [processes.submit(trained, name, steps, seed, data) for name in losses]
        for name, future in zip(losses, futures, strict=True):
            one = future.result()
            if one is None:
                raise evomal.InputError(f"The training with {name} diverged; leave it out.")
            found[name] = one
    finally:
        processes.close()
    return found


def print_table(found: dict[str, Trained], classes: NDArray[np.int64]) -> None:
    """Test error and silhouette score by loss."""
    width = max(map(len, found)) + 2
    print(f"{'loss':<{width}}{'test error, %':>15}{'silhouette':>12}")
    for name, one in found.items():
        score = float(silhouette_score(one.representations, classes))
        print(f"{name:<{width}}{100 * one.test_error:>15.2f}{score:>12.3f}")


def draw(found: dict[str, Trained], classes: NDArray[np.int64], title: str) -> Any:
    """A matplotlib figure: t-SNE of the representations, one panel per loss, colour by class."""
    from matplotlib.figure import Figure

    columns = min(len(found), 3)
    lines = -(-len(found) // columns)
    figure = Figure(figsize=(4.2 * columns, 4.2 * lines + 0.8), layout="constrained")
    axes = figure.subplots(lines, columns, squeeze=False).flatten()
    few = int(classes.max()) < 10
    perplexity = min(30.0, (len(classes) - 1) / 3)
    embedding = TSNE(init="pca", perplexity=perplexity, random_state=0)
    for axis in axes:
        axis.set_axis_off()
    for axis, (name, one) in zip(axes, found.items(), strict=False):
        places = embedding.fit_transform(one.representations)
        colours = {"cmap": "tab10", "vmin": 0, "vmax": 9} if few else {"cmap": "nipy_spectral"}
        dots = axis.scatter(*places.T, c=classes, s=7, **colours)
        axis.set(title=name, xticks=[], yticks=[])
        axis.set_axis_on()
    if few:
        handles, labels = dots.legend_elements(num=None)
        figure.legend(handles, labels, title="class", loc="outside right center")
    figure.suptitle(title)
    return figure


def parsed_options() -> argparse.Namespace:
    """The command line's options."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog=EXAMPLES, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add, number = parser.add_argument, at_least_one
    add("task", help="name of a task with classes; `evomal tasks` lists them")
    add("--losses", nargs="+", metavar="LOSS", default=list(LOSSES), help=LOSS_HELP)
    add("--steps", type=number, default=2000, help="training steps (2000)")
    add("--seed", type=int, default=0, help="seed of initial weights and batches (0)")
    add("--rows", type=number, default=1000, help="test rows to represent (1000)")
    add("--figure", type=Path, help="where to save the t-SNE, as PNG, PDF or SVG")
    add("--workers", type=number, default=available_cores(), help="processes (one per core)")
    add("--device", default="cpu", help="where to train (cpu)")
    return parser.parse_args()


def report(options: argparse.Namespace) -> None:
    """Train, print and save."""
    require_figure(options.figure)
    if options.rows < LEAST_ROWS:
        raise evomal.InputError(f"--rows must be at least {LEAST_ROWS}, got {options.rows}.")
    task = classification_task(options.task, options.device)
    assert task.test is not None
    if len(weighted_layers(task.new_model(seed=0))) < 2:
        raise evomal.InputError(
            f"The model of {task.name!r} has no hidden layer with representations; "
            "choose another task, such as mnist/lenet5."
        )
    losses = list(dict.fromkeys(options.losses))
    for name in losses:
        named_loss(name, task)
    data = some_rows(task.test, options.rows, "representations", task.name).to(torch.device("cpu"))
    classes = data.targets.numpy()
    found = train_all(task, losses, options.steps, options.seed, data, options.workers)
    features = next(iter(found.values())).representations.shape[1]
    title = f"{task.name}, {options.steps} steps, seed {options.seed}"
    print(f"{title}, {features} features of {len(data)} test rows\n")
    print_table(found, classes)
    print(
        "\nSilhouette score of the representations by true class, from -1 to 1: higher means "
        "tighter and better\nseparated classes. It does not depend on scale. There is one training "
        "per loss, so small\ndifferences can be due to chance; try other seeds."
    )
    if options.figure is not None:
        draw(found, classes, title).savefig(options.figure, dpi=120)


def main() -> int:
    """The exit status: 2 after bad input, 1 if a worker fails."""
    options = parsed_options()
    try:
        report(options)
    except (evomal.InputError, WorkError) as error:
        sys.stderr.write(f"Error: {error}\n")
        return 2 if isinstance(error, evomal.InputError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
