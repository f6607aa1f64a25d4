"""The cost of data: loading CIFAR-10, its memory, augmenting a batch.

Run: EVOMAL_DATA=… python benchmarks/data.py [--n 50] [--device cpu]

On a GPU, the fraction of augmentation in a training step of resnet18 is printed, too.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch

import evomal
from evomal.tasks.datasets import data_directory, load_arrays
from evomal.tasks.pixels import crop_and_flip


def milliseconds(work: Callable[[], object], n: int, device: torch.device) -> list[float]:
    """Times of n calls, after a warm-up."""
    times = []
    for call in range(n + 5):
        start = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if call >= 5:
            times.append(1e3 * (time.perf_counter() - start))
    return times


def report(what: str, times: list[float]) -> float:
    """Print and return the median."""
    median = statistics.median(times)
    print(f"{what:<44}{median:9.2f} ms, {min(times):.2f} to {max(times):.2f}, n = {len(times)}")
    return median


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, {device}, "
        f"torch {torch.__version__}, Python {platform.python_version()}"
    )
    folder = data_directory()
    times = milliseconds(lambda: load_arrays("cifar10", folder), 3, torch.device("cpu"))
    report("CIFAR-10 from its files, digests checked", times)
    task = evomal.load_task("cifar10/resnet18", device=device)
    parts = [part for part in (task.train, task.validation, task.test) if part is not None]
    held = sum(t.nbytes for part in parts for t in (part.inputs, part.targets))
    print(f"{'held':<44}{held / 1e6:9.1f} MB")
    rows = torch.arange(128, device=device)
    images = task.train.inputs[rows]
    report(
        "crop and flip of 128 images",
        milliseconds(lambda: crop_and_flip(images), options.n, device),
    )
    times = milliseconds(lambda: task.batch(task.train, rows), options.n, device)
    batch = report("batch of 128: index, crop, flip, standardise", times)
    if device.type == "cuda":
        learner = task.new_model(seed=0)

        def step() -> None:
            data = task.batch(task.train, rows)
            task.task_loss(learner(data.inputs), data.targets).backward()  # type: ignore[no-untyped-call]

        whole = report("training step of resnet18", milliseconds(step, options.n, device))
        print(f"{'share of the batch in it':<44}{batch / whole:9.1%}")


if __name__ == "__main__":
    main()
