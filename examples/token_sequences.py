"""Learn a loss for a small transformer on token ids that classifies lines of code by module.

The lines are from four modules of Python's standard library, available on every machine; a token is
a character. Run: python examples/token_sequences.py
"""

from __future__ import annotations

import argparse
from importlib.util import find_spec
from pathlib import Path

import torch
from sklearn.model_selection import train_test_split
from torch import nn

import evomal

MODULES = ("argparse", "datetime", "statistics", "zipfile")
LENGTH = 32  # tokens in a sequence
PADDING = 0
TOKENS = 128  # ASCII


class Transformer(nn.Module):
    """One encoder layer over the tokens, the mean over tokens that are not padding, logits."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.embedding = nn.Embedding(TOKENS, width, padding_idx=PADDING)
        self.positions = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        self.encoder = nn.TransformerEncoderLayer(
            width, nhead=4, dim_feedforward=64, dropout=0.1, batch_first=True
        )
        self.output = nn.Linear(width, len(MODULES))

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Logits (B, 4) of token ids (B, 32)."""
        padding = tokens == PADDING
        hidden = self.embedding(tokens) + self.positions
        hidden = self.encoder(hidden, src_key_padding_mask=padding)
        kept = (~padding).unsqueeze(2).to(hidden.dtype)
        logits: torch.Tensor = self.output((hidden * kept).sum(dim=1) / kept.sum(dim=1))
        return logits


def lines_of(module: str) -> list[str]:
    """The distinct lines of a module's source that are long enough to classify."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    text = Path(spec.origin).read_text(encoding="utf-8")
    lines = sorted({line.strip() for line in text.splitlines() if line.isascii()})
    return [line for line in lines if len(line) >= 8]


def make_task(steps: int = 1000) -> evomal.Task:
    """60:20:20 lines as token ids (n, 32), int64, padded with zeros at the end."""
    rows, labels = [], []
    for label, module in enumerate(MODULES):
        for line in lines_of(module):
            codes = list(line[:LENGTH].encode())
            rows.append(codes + [PADDING] * (LENGTH - len(codes)))
            labels.append(label)
    x_train, x_rest, y_train, y_rest = train_test_split(
        torch.tensor(rows), torch.tensor(labels), test_size=0.4, random_state=0, stratify=labels
    )
    x_val, x_test, y_val, y_test = train_test_split(
        x_rest, y_rest, test_size=0.5, random_state=0, stratify=y_rest
    )
    return evomal.Task(
        Transformer,
        train=(x_train, y_train),
        validation=(x_val, y_val),
        test=(x_test, y_test),
        link="softmax",
        optimizer=evomal.SGD(learning_rate=0.1, momentum=0.9, weight_decay=0.0),
        batch_size=64,
        loss_inputs={"t": "progress"},  # the loss may change during training
        testing_steps=steps,
        name="lines-of-code",
    )


def main() -> None:
    """Search, then train fresh transformers with the learned loss and with cross-entropy."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run-dir", default=None)
    parser.add_argument("--generations", type=int, default=5)
    parser.add_argument("--population-size", type=int, default=20)
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()

    task = make_task(options.steps)
    run = evomal.search(
        task,
        preset="quick",
        generations=options.generations,
        population_size=options.population_size,
        run_dir=options.run_dir,
    )
    print(f"Learned: {run.best.formula}")
    print(run.verdict)
    result = evomal.compare(task, run.best.loss, range(options.seeds))
    for name, sample in [("learned", result.learned), ("cross-entropy", result.task_loss)]:
        values = " ".join("diverged" if v is None else f"{v:.4f}" for v in sample.values)
        print(f"Test error, {name}: {values}")


if __name__ == "__main__":
    main()
