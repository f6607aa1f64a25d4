"""The cost of data: of CIFAR-10's images, and of a search on a table of a million rows.

Run: EVOMAL_DATA=… python benchmarks/data.py [--only images|search] [--n 50] [--device cpu]

Images: loading CIFAR-10, its memory, augmenting a batch; on a GPU, the fraction of augmentation in
a training step of resnet18 is printed, too. Search: the same short search with the table in memory,
read lazily from a memory map, and read lazily row by row from a Dataset; each in a process of its
own, which prints the memory of the coordinator and of its workers at the end, and the seconds of a
candidate that was trained.
"""

from __future__ import annotations

import argparse
import functools
import multiprocessing
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

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


def measure_images(options: argparse.Namespace) -> None:
    """Measure and print the cost of CIFAR-10."""
    device = torch.device(options.device)
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


PROMISING = [
    "mul(-1, mul(y, log(f)))",
    "square(sub(y, f))",
    "abs(sub(y, f))",
    "mul(-1, mul(y, tanh(f)))",
    "mul(-1, mul(y, sqrt(f)))",
    "square(sub(y, tanh(f)))",
    "square(sub(y, sqrt(f)))",
    "mul(y, sub(1, f))",
]
"""Losses that are trained, so that there is a time for a whole candidate."""


class TableRows(Dataset[Any]):
    """Some rows of a table in files, read one at a time."""

    def __init__(self, folder: Path, rows: slice) -> None:
        self.folder, self.rows = folder, rows

    def __len__(self) -> int:
        return int(self.rows.stop) - int(self.rows.start)

    def __getitem__(self, index: int) -> Any:
        inputs, targets = tables(self.folder)
        place = self.rows.start + index
        return inputs[place], targets[place]


@functools.cache
def tables(folder: Path) -> tuple[Any, Any]:
    """The table and its classes, as memory maps."""
    return np.load(folder / "x.npy", mmap_mode="r"), np.load(folder / "y.npy", mmap_mode="r")


def write_table(folder: Path, rows: int, columns: int) -> None:
    """A table of normal numbers, and classes that a noisy linear function of it gives."""
    rng = np.random.default_rng(0)
    direction = rng.normal(size=columns)
    shape = (rows, columns)
    x = np.lib.format.open_memmap(folder / "x.npy", "w+", np.float32, shape)
    y = np.lib.format.open_memmap(folder / "y.npy", "w+", np.int64, (rows,))
    for start in range(0, rows, 10_000):
        part = slice(start, start + 10_000)
        x[part] = rng.normal(size=x[part].shape)
        y[part] = x[part] @ direction + rng.normal(size=len(x[part])) > 0


def classifier(columns: int) -> nn.Module:
    """A small network."""
    return nn.Sequential(nn.Linear(columns, 64), nn.ReLU(), nn.Linear(64, 2))


def table_task(folder: Path, kind: str) -> evomal.Task:
    """Nine tenths of the rows to train on, the others for validation, of which 10 000 count."""
    inputs, targets = tables(folder)
    cut = len(inputs) * 9 // 10
    parts: list[Any] = [
        TableRows(folder, rows) if kind == "Dataset" else (inputs[rows], targets[rows])
        for rows in (slice(0, cut), slice(cut, len(inputs)))
    ]
    return evomal.Task(
        partial(classifier, inputs.shape[1]),
        *parts,
        link="softmax",
        in_memory=kind == "in memory",
        validation_rows=10_000,
        name="table",
    )


class Memory(evomal.Callback):
    """Prints who holds how much memory at the end of a run."""

    def on_run_end(self, method: Any) -> None:
        """Print."""
        print(f"  coordinator {memory(os.getpid())}")
        for worker in multiprocessing.active_children():
            assert worker.pid is not None
            print(f"  worker {memory(worker.pid)}")


def memory(pid: int) -> str:
    """The memory of a process in MB: its own, shared with other processes, and mapped files."""
    status = Path(f"/proc/{pid}/status").read_text()
    lines = dict(line.split(":", 1) for line in status.splitlines())
    own, shared, files = (int(lines[f"Rss{k}"].split()[0]) / 1e3 for k in ("Anon", "Shmem", "File"))
    return f"{own:.0f} MB of its own, {shared:.0f} MB shared, {files:.0f} MB of files"


def search_table(folder: Path, kind: str, candidates: int, seed: int) -> None:
    """Make the task, search with two workers, and print the costs."""
    start = time.perf_counter()
    task = table_task(folder, kind)
    print(f"{kind}: task made in {time.perf_counter() - start:.1f} s")
    run = evomal.search(
        task,
        preset="paper",
        population_size=candidates,
        generations=1,
        initial_losses=PROMISING[:candidates],
        meta_steps=100,
        testing_steps=500,
        seed=seed,
        run_dir=folder / f"run {kind}",
        workers=2,
        progress=False,
        callbacks=[Memory()],
    )
    trained = [outcome.seconds for outcome in run.outcomes if outcome.status == "evaluated"]
    for stage in ("tuning", "training", "total"):
        times = [getattr(seconds, stage) for seconds in trained]
        print(
            f"  {stage} {statistics.median(times):.2f} s a candidate, "
            f"{min(times):.2f} to {max(times):.2f}, n = {len(times)}"
        )


def measure_search(options: argparse.Namespace) -> None:
    """A search with each kind of data, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        write_table(Path(folder), options.rows, options.columns)
        print(f"{options.rows} rows of {options.columns} columns, two workers, 500 training steps")
        for kind in ("in memory", "memory map", "Dataset"):
            command = [sys.executable, __file__, "--only", "search", "--kind", kind]
            more = ["--folder", folder, "--candidates", str(options.candidates)]
            sys.stdout.flush()  # before the output of the other process
            subprocess.run([*command, *more], check=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=["images", "search"])
    parser.add_argument("--n", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--columns", type=int, default=100)
    parser.add_argument("--candidates", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kind", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.kind is not None:
        search_table(options.folder, options.kind, options.candidates, options.seed)
        return
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {options.threads} threads, "
        f"{options.device}, torch {torch.__version__}, Python {platform.python_version()}",
        flush=True,
    )
    if options.only != "search":
        measure_images(options)
    if options.only != "images":
        measure_search(options)


if __name__ == "__main__":
    main()
