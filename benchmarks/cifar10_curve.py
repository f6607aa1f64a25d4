"""Training of a network on CIFAR-10 for a few minutes: test error at every half epoch.

Run: EVOMAL_DATA=… python benchmarks/cifar10_curve.py [--task cifar10/allcnnc] [--minutes 10]

The settings are the task's (paper, section 4.2), and the loss is cross-entropy. The minutes are for
training only, without evaluations.
"""

from __future__ import annotations

import argparse
import os
import platform
import time

import torch
from torch import nn

import evomal
from evomal.training.loop import performance, train

MOST_EPOCHS = 100
"""Maximum number of epochs."""


def main() -> None:
    """Train, evaluate and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--task", default="cifar10/allcnnc")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    task = evomal.load_task(options.task, device=options.device)
    assert task.test is not None
    print(
        f"{options.task}, {platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, "
        f"{task.device}, torch {torch.__version__}, Python {platform.python_version()}"
    )
    test = task.test
    half_epoch = len(task.train) // task.batch_size // 2
    seconds, start, step = 0.0, time.perf_counter(), 0

    def measure(learner: nn.Module) -> bool:
        nonlocal seconds, start, step
        seconds += time.perf_counter() - start
        step += half_epoch
        error = performance(task, learner, test)
        epochs = step * task.batch_size / len(task.train)
        print(f"{epochs:5.2f} epochs, {step:5d} steps, {seconds:6.0f} s: test error {error:.4f}")
        start = time.perf_counter()
        return bool(seconds < 60 * options.minutes)

    most = MOST_EPOCHS * 2 * half_epoch
    observers = dict.fromkeys(range(half_epoch, most + 1, half_epoch), measure)
    train(task, task.task_loss, most, stream=(options.seed, "curve"), observers=observers)


if __name__ == "__main__":
    main()
