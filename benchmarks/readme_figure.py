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
    """The fitness of every loss by generation, and that of the task loss at its best rate."""
    value, own = run.facts.scale.value, run.task_loss_fitness
    assert own is not None
    shown = [one for one in run.outcomes if one.status == "evaluated" and one.fitness < 2 * own]
    numbers = [one.candidate.generation + 1 for one in shown]
    values = np.array([value(one.fitness) for one in shown], dtype=float)
    axes.plot(numbers, values, "o", color=LEARNED, alpha=0.4, label="a loss of the search")
    axes.axhline(value(own), ls="--", color=OWN, label="task loss, tuned")
    axes.set(xlabel="generation", ylabel=f"validation {run.facts.scale.names}")
    axes.set_xticks(range(1, len(run.generations) + 1))
    axes.set_ylim(bottom=0)
    axes.set_title(f"The search: {run.facts.settings.fitness_steps} training steps each")
    axes.legend()


def draw_loss(axes: Axes, run: evomal.Run) -> None:
    """The learned loss for a target of 0, and squared error."""
    f = torch.linspace(-2.5, 2.5, 401)
    y = torch.zeros_like(f)
    learned = run.best.loss.elementwise(y, f, run.best.loss.phi)
    learned = learned - learned.min()
    axes.plot(f, learned / learned.max(), color=LEARNED, label="best loss")
    axes.plot(f, (f - y) ** 2 / f[-1] ** 2, "--", color=OWN, label="squared error")
    axes.set(xlabel="prediction, where the target is 0", ylabel="loss, scaled to at most 1")
    axes.set_title("The loss")
    axes.legend()


def draw_test(axes: Axes, comparison: dict[str, Any]) -> None:
    """Test metric by tuned loss, one point per seed."""
    tuned = comparison["tuned"]
    shown = [
        ("task loss", tuned["task_loss"], OWN),
        ("best loss", tuned["learned"], LEARNED),
        *(
            (name, sample, OTHER)
            for name, sample in tuned.get("against", {}).items()
            if sample["values"] != tuned["learned"]["values"]  # the same loss by its name
        ),
    ]
    for place, (_, sample, colour) in enumerate(shown):
        values = sample["values"]
        axes.plot([place] * len(values), values, "o", color=colour)
    names = [name.replace("-", "-\n").replace(" loss", "\nloss") for name, _, _ in shown]
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
