"""Draw the README's figure from a run directory and the output of `evomal train --json`.

Run, after `evomal search … --run-dir RUN` and `evomal train … --loss RUN --tune
learning-rate,steps --json > comparison.json`:
python benchmarks/readme_figure.py RUN comparison.json docs/front-page.png
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes

import evomal

LEARNED, OWN, OTHER = "#d1495b", "#30638e", "#8d99ae"


def draw_search(axes: Axes, run: evomal.Run) -> None:
    """Best fitness so far by generation, and that of the task loss at its best learning rate."""
    scale = run.facts.scale
    best = [scale.value(generation.best) for generation in run.generations]
    numbers = range(1, len(best) + 1)
    axes.plot(numbers, np.array(best, dtype=float), "o-", color=LEARNED, label="best loss so far")
    own = scale.value(run.task_loss_fitness)
    axes.axhline(own or 0.0, ls="--", color=OWN, label="task loss, tuned")
    steps = run.facts.settings.fitness_steps
    axes.set(xlabel="generation", ylabel=f"validation {scale.names}", title="The search")
    axes.set_xticks(list(numbers))
    axes.set_ylim(bottom=0)
    axes.set_title(f"The search: {steps} training steps each")
    axes.legend()


def draw_loss(axes: Axes, run: evomal.Run) -> None:
    """The learned loss for a target of 0, and squared error."""
    f = torch.linspace(-2.5, 2.5, 401)
    y = torch.zeros_like(f)
    learned = run.best.loss.elementwise(y, f, run.best.loss.phi)
    learned = learned - learned.min()
    axes.plot(f, learned / learned.max(), color=LEARNED, label="learned loss")
    axes.plot(f, (f - y) ** 2 / f[-1] ** 2, "--", color=OWN, label="squared error")
    axes.set(xlabel="prediction, where the target is 0", ylabel="loss, scaled to at most 1")
    axes.set_title("The loss")
    axes.legend()


def draw_test(axes: Axes, comparison: dict[str, Any]) -> None:
    """Test metric by tuned loss, one point per seed."""
    tuned = comparison["tuned"]
    shown = [
        ("task loss", tuned["task_loss"], OWN),
        ("learned", tuned["learned"], LEARNED),
        *((name, sample, OTHER) for name, sample in tuned.get("against", {}).items()),
    ]
    for place, (_, sample, colour) in enumerate(shown):
        values = sample["values"]
        axes.plot([place] * len(values), values, "o", color=colour)
    names = [name.replace("-", "-\n").replace("task loss", "task\nloss") for name, _, _ in shown]
    axes.set_xticks(range(len(shown)), names)
    axes.set_xlim(-0.5, len(shown) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set(ylabel=f"test {comparison['metric']}", title="Fresh models, unseen rows, all tuned")


def main() -> None:
    """Draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir")
    parser.add_argument("comparison", type=Path)
    parser.add_argument("output")
    options = parser.parse_args()
    run = evomal.Run(options.run_dir)
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.6), layout="constrained")
    draw_search(axes[0], run)
    draw_loss(axes[1], run)
    draw_test(axes[2], json.loads(options.comparison.read_text()))
    figure.savefig(options.output, dpi=120)


if __name__ == "__main__":
    main()
