"""How a network learns CIFAR-10 in a few minutes: test error at every half epoch.

Run: EVOMAL_DATA=… python benchmarks/cifar10_curve.py [--task cifar10/allcnnc] [--minutes 10]

The settings are the task's own (paper, section 4.2), and the loss is cross-entropy. The minutes are
those of training; the evaluations come on top.
"""

from __future__ import annotations

import argparse
import os
import platform
import time

import torch

import evomal
from evomal.seeding import derive_generator, isolated_rng
from evomal.training.numerics import draw_batches
from evomal.training.training import performance


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
    settings = task.optimizer
    learner = task.new_model(options.seed)
    sgd = torch.optim.SGD(
        learner.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        nesterov=settings.nesterov,
        weight_decay=settings.weight_decay,
    )
    half_epoch = len(task.train) // task.batch_size // 2
    rng = derive_generator(options.seed, "curve")
    seconds, step = 0.0, 0
    while seconds < 60 * options.minutes:
        start = time.perf_counter()
        batches = draw_batches(rng, len(task.train), task.batch_size, half_epoch, task.device)
        learner.train()
        with isolated_rng(task.device, options.seed + step):
            for rows in batches:
                batch = task.batch(task.train, rows)
                sgd.zero_grad()
                loss = task.task_loss(learner(batch.inputs), batch.targets)
                loss.backward()  # type: ignore[no-untyped-call]
                sgd.step()
                step += 1
        seconds += time.perf_counter() - start
        error = performance(task, learner, task.test)
        epochs = step * task.batch_size / len(task.train)
        print(f"{epochs:5.2f} epochs, {step:5d} steps, {seconds:6.0f} s: test error {error:.4f}")


if __name__ == "__main__":
    main()
