"""Learn a loss for your own model and data: binary classification of scikit-learn's breast cancer.

Run: python examples/own_model.py
"""

from __future__ import annotations

import argparse

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import nn

import evomal


class Classifier(nn.Module):
    """Any module works; this one returns one logit per row."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(30, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Logits of shape (B,)."""
        out: torch.Tensor = self.layers(x)
        return out.squeeze(1)


def make_task() -> evomal.Task:
    """60:20:20 rows, standardised on the training rows."""
    features, labels = load_breast_cancer(return_X_y=True)
    x_train, x_rest, y_train, y_rest = train_test_split(
        features, labels, test_size=0.4, random_state=0, stratify=labels
    )
    x_val, x_test, y_val, y_test = train_test_split(
        x_rest, y_rest, test_size=0.5, random_state=0, stratify=y_rest
    )
    scale = StandardScaler().fit(x_train).transform
    return evomal.Task(
        Classifier,
        train=(scale(x_train), y_train),
        validation=(scale(x_val), y_val),
        test=(scale(x_test), y_test),
        link="sigmoid",
        task_loss=nn.functional.binary_cross_entropy_with_logits,
        metric=balanced_error,
        optimizer=evomal.SGD(learning_rate=0.01, momentum=0.9),
        batch_size=32,
        testing_steps=500,
        name="breast-cancer",
    )


def balanced_error(pred: torch.Tensor, target: torch.Tensor) -> float:
    """Mean of the error rates of the two classes; it need not be differentiable."""
    wrong = (pred > 0).float() != target
    return float(np.mean([wrong[target == label].float().mean() for label in (0, 1)]))


def main() -> None:
    """Search, save the loss, use it in your own training loop."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", default=None)
    parser.add_argument("--generations", type=int, default=5)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()

    run = evomal.search(
        make_task(),
        preset="quick",
        generations=options.generations,
        seed=options.seed,
        run_dir=options.run_dir,
    )
    print(f"Learned: {run.best.formula}")
    print(run.verdict)
    evomal.save_loss(run.best.loss, run.run_dir / "my_loss.json")
    (recipe,) = run.summary()["verdict"]["recipes"]["learned"]  # tuned on validation rows

    loss_fn = evomal.load_loss(run.run_dir / "my_loss.json")  # an nn.Module, in place of BCE
    task = make_task()
    model = Classifier()
    optimizer = torch.optim.SGD(model.parameters(), lr=recipe["learning_rate"], momentum=0.9)
    for _ in range(recipe["steps"]):
        rows = torch.randint(len(task.train), (32,))
        optimizer.zero_grad()
        loss_fn(model(task.train.inputs[rows]), task.train.targets[rows]).backward()
        optimizer.step()
    assert task.test is not None
    error = balanced_error(model(task.test.inputs), task.test.targets)
    print(f"Balanced test error of a model trained with it: {error:.4f}")


if __name__ == "__main__":
    main()
