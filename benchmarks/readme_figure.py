"""Draw the README's figure from a run directory and the output of `evomal train --json`.

Run, after `evomal search … --run-dir RUN` and `evomal train … --loss RUN --tune learning-rate
--json > comparison.json`: python benchmarks/readme_figure.py RUN comparison.json docs/diabetes.png
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

LEARNED, OWN = "#d1495b", "#30638e"


def draw_search(axes: Axes, run: evomal.Run) -> None:
    """Best fitness so far by generation, and the fitness of the task loss."""
    best = [generation.best for generation in run.generations]
    numbers = range(1, len(best) + 1)
    axes.plot(numbers, np.array(best, dtype=float), "o-", color=LEARNED, label="best learned loss")
    axes.axhline(run.task_loss_fitness or 0.0, ls="--", color=OWN, label="squared error")
    steps = run.facts.settings.testing_steps
    axes.set(xlabel="generation", ylabel=f"validation MSE after {steps} steps", title="The search")
    axes.legend()


def draw_loss(axes: Axes, run: evomal.Run) -> None:
    """The learned loss for a target of 0, and squared error."""
    f = torch.linspace(-2.5, 2.5, 401)
    y = torch.zeros_like(f)
    learned = run.best.loss.elementwise(y, f, run.best.loss.phi)
    axes.plot(f, learned - learned.min(), color=LEARNED, label="learned loss")
    axes.plot(f, (f - y) ** 2, "--", color=OWN, label="squared error")
    axes.set(xlabel="prediction (target 0)", ylabel="loss above its minimum", title="The loss")
    axes.set_ylim(0, 4)
    axes.legend()


def draw_test(axes: Axes, comparison: dict[str, Any]) -> None:
    """Test metric by loss, one point per seed."""
    tuned = comparison["tuned"]
    shown = [
        ("squared\nerror", comparison["task_loss"], OWN),
        ("squared\nerror, tuned", tuned["task_loss"], OWN),
        ("learned\nloss", comparison["learned"], LEARNED),
        ("learned\nloss, tuned", tuned["learned"], LEARNED),
    ]
    for place, (_, sample, colour) in enumerate(shown):
        values = sample["values"]
        axes.plot([place] * len(values), values, "o", color=colour)
    axes.set_xticks(range(len(shown)), [name for name, _, _ in shown])
    axes.set_xlim(-0.5, len(shown) - 0.5)
    axes.set_ylim(bottom=0)
    axes.set(ylabel="test MSE at the end of training", title="Fresh models, unseen rows")


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
