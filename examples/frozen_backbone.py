"""Fine-tuning: only the head of a network is trained, on features that were learned before.

The backbone has learned the digits 0 to 4 of scikit-learn's handwritten digits, and is frozen; the
head learns 5 to 9.

Run: evomal search examples/frozen_backbone.py:make_task --preset quick
"""

from __future__ import annotations

import copy
from functools import partial

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import nn

import evomal


def pretrained_backbone(images: torch.Tensor, classes: torch.Tensor) -> nn.Module:
    """Convolutions trained to tell the classes apart; a real backbone would come from a file."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        backbone = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.BatchNorm2d(16),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(16, 32, 3, padding=1),
            nn.ReLU(),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
        )
        head = nn.Linear(128, 5)
    optimizer = torch.optim.Adam([*backbone.parameters(), *head.parameters()], lr=0.01)
    for _ in range(60):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(head(backbone(images)), classes)
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return backbone.requires_grad_(requires_grad=False)


def with_new_head(backbone: nn.Module) -> nn.Module:
    """A network of its own in every training; the frozen parameters stay as they are."""
    return nn.Sequential(copy.deepcopy(backbone), nn.Linear(128, 5))


def make_task() -> evomal.Task:
    """60:20:20 images of the digits 5 to 9; the backbone has not seen any of them."""
    digits = load_digits()
    images = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    classes = torch.tensor(digits.target)
    before = classes < 5
    backbone = pretrained_backbone(images[before], classes[before])
    x_train, x_rest, y_train, y_rest = train_test_split(
        images[~before], classes[~before] - 5, test_size=0.4, random_state=0
    )
    x_val, x_test, y_val, y_test = train_test_split(x_rest, y_rest, test_size=0.5, random_state=0)
    return evomal.Task(
        partial(with_new_head, backbone),
        train=(x_train, y_train),
        validation=(x_val, y_val),
        test=(x_test, y_test),
        link="softmax",
        optimizer=evomal.AdamW(learning_rate=0.003),
        batch_size=64,
        rejection_steps=100,
        testing_steps=500,
        name="frozen-backbone",
    )
