"""The cost of label smoothing by number of classes C: dense, sparse, none (paper, figure 14).

Run: python benchmarks/label_smoothing.py [--n 200] [--compile] [--figure PATH]

Forward time of a batch of 100, with log-softmax and, as in the right half of the figure, from
given log-probabilities: cross-entropy, torch's dense label smoothing and sparse label smoothing.
Then forward and backward time from logits of torch's losses and all of ours, as ratios to torch's
plain cross-entropy, eager and with `--compile` compiled; and for logits larger than the caches, the
fraction of memory bandwidth reached by forward and backward together, counting only reading the
logits and writing their gradient. The losses are timed alternately; prints hardware, versions, n,
medians, and quartiles as the spread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from functools import partial
from itertools import combinations
from pathlib import Path

import torch
from candidate_cost import print_machine
from torch import Tensor, nn
from torch.nn import functional

import evomal
from evomal.runs.executors import keep_freed_memory

BATCH, SMOOTHING = 100, 0.1
BLOCK, SETTLE, WARM_UP = 20, 2e-3, 1
CLASSES = (3, 10, 30, 100, 300, 1000, 2000, 3000, 5000, 7000, 10_000)
RATIO_CLASSES = (10, 10_000)
BANDWIDTH_CLASSES = (10_000, 30_000)
BANDWIDTH_LOGITS = {"cpu": 2**24, "cuda": 2**27}  # larger than any cache
NAMES = ("cross-entropy", "label smoothing", "sparse")

Work = Callable[[], object]
LossFunction = Callable[[Tensor, Tensor], Tensor]
Times = dict[str, list[float]]


def in_turn(work: Mapping[str, Work], n: int, device: torch.device) -> Times:
    """Microseconds of n calls of each, in alternating blocks.

    The first call of a block and all calls in its first milliseconds are left out, so that the
    caches and the clock rate do not depend on the previous block.
    """
    times: Times = {name: [] for name in work}
    for _ in range(WARM_UP + -(-n // BLOCK)):
        for name, one in work.items():
            one()
            settled, wanted = time.perf_counter() + SETTLE, len(times[name]) + BLOCK
            while len(times[name]) < wanted:
                start = time.perf_counter()
                one()
                if device.type == "cuda":
                    torch.cuda.synchronize(device)
                if start >= settled:
                    times[name].append(1e6 * (time.perf_counter() - start))
    return {name: found[WARM_UP * BLOCK :][:n] for name, found in times.items()}


def dense_of_log_probabilities(log_f: Tensor, target: Tensor) -> Tensor:
    """Torch's label smoothing after log-softmax (equation 40)."""
    smooth = -log_f.sum(dim=1).mean()
    nll = functional.nll_loss(log_f, target)
    return (1 - SMOOTHING) * nll + SMOOTHING / log_f.shape[1] * smooth


def sparse_of_log_probabilities(log_f: Tensor, target: Tensor) -> Tensor:
    """Sparse label smoothing after log-softmax (equation 49)."""
    log_p = -functional.nll_loss(log_f, target, reduction="none")
    return SPARSE.curve(log_p, log_f.shape[1]).mean()


SPARSE = evomal.SparseLabelSmoothingLoss(SMOOTHING)
FROM_LOGITS: dict[str, LossFunction] = dict(
    zip(
        NAMES,
        (nn.CrossEntropyLoss(), nn.CrossEntropyLoss(label_smoothing=SMOOTHING), SPARSE),
        strict=True,
    )
)
FROM_LOG_PROBABILITIES: dict[str, LossFunction] = dict(
    zip(
        NAMES,
        (functional.nll_loss, dense_of_log_probabilities, sparse_of_log_probabilities),
        strict=True,
    )
)
TRAINED: dict[str, LossFunction] = {
    "torch cross-entropy": nn.CrossEntropyLoss(),
    "torch label smoothing": nn.CrossEntropyLoss(label_smoothing=SMOOTHING),
    "LabelSmoothingLoss": evomal.LabelSmoothingLoss(SMOOTHING),
    "SparseLabelSmoothingLoss": SPARSE,
    "SparseLabelSmoothingLoss, relaxed": evomal.SparseLabelSmoothingLoss(SMOOTHING, relaxed=True),
    "AbsoluteCrossEntropyLoss": evomal.AbsoluteCrossEntropyLoss(),
    "AbsoluteCrossEntropyLoss, φ₁ = 1.1": evomal.AbsoluteCrossEntropyLoss(1.0, 1.1),
    "FocalLoss": evomal.FocalLoss(2.0),
    "FocalSparseLabelSmoothingLoss": evomal.FocalSparseLabelSmoothingLoss(2.0, SMOOTHING),
}
BANDWIDTH_LOSSES = ("torch cross-entropy", "torch label smoothing", "SparseLabelSmoothingLoss")


def batch(C: int, device: torch.device, rows: int = BATCH) -> tuple[Tensor, Tensor]:  # noqa: N803
    """Random logits and targets."""
    rng = torch.Generator().manual_seed(0)
    pred = torch.randn(rows, C, generator=rng)
    target = torch.randint(C, (rows,), generator=rng)
    return pred.to(device), target.to(device)


def calls(losses: Mapping[str, LossFunction], pred: Tensor, target: Tensor) -> dict[str, Work]:
    """Forward passes."""

    def call(loss: LossFunction) -> Work:
        return lambda: loss(pred, target)

    return {name: call(loss) for name, loss in losses.items()}


def steps(losses: Mapping[str, LossFunction], pred: Tensor, target: Tensor) -> dict[str, Work]:
    """Forward and backward passes."""

    def step(loss: LossFunction) -> Work:
        leaf = pred.clone().requires_grad_()

        def one() -> None:
            leaf.grad = None
            loss(leaf, target).backward()  # type: ignore[no-untyped-call]

        return one

    return {name: step(loss) for name, loss in losses.items()}


def figure_14(n: int, device: torch.device) -> tuple[list[Times], list[Times]]:
    """Print and return forward times by C, with and without log-softmax."""
    both: tuple[list[Times], list[Times]] = ([], [])
    print(f"\n{'forward, µs':<8}{'with log-softmax':>40}{'without':>48}")
    print(f"{'C':>8}" + "".join(f"{name:>24}" for name in NAMES * 2))
    for C in CLASSES:
        pred, target = batch(C, device)
        log_f = torch.log_softmax(pred, 1)
        both[0].append(in_turn(calls(FROM_LOGITS, pred, target), n, device))
        both[1].append(in_turn(calls(FROM_LOG_PROBABILITIES, log_f, target), n, device))
        cells = [spread(times[-1][name]) for times in both for name in NAMES]
        print(f"{C:>8}" + "".join(f"{cell:>24}" for cell in cells))
    slopes = {name: 1e3 * slope([times[name] for times in both[1]]) for name in NAMES}
    ratio = slopes["sparse"] / slopes["label smoothing"]
    print(
        "slope without log-softmax, ns per class: "
        + ", ".join(f"{name} {value:.3f}" for name, value in slopes.items())
        + f"; sparse / label smoothing {ratio:.2%} (goal at most 1 %)"
    )
    return both


def slope(times: list[list[float]]) -> float:
    """Slope in C: the median over all pairs of the line through their medians (Theil-Sen)."""
    points = zip(CLASSES, map(statistics.median, times), strict=True)
    return statistics.median((y - v) / (x - u) for (u, v), (x, y) in combinations(points, 2))


def ratios(n: int, device: torch.device, compiled: bool) -> None:
    """Print times of training steps, as ratios to torch's plain cross-entropy."""
    losses = TRAINED
    if compiled:
        losses = {name: torch.compile(loss, fullgraph=True) for name, loss in TRAINED.items()}
    first = next(iter(losses))
    for C in RATIO_CLASSES:
        torch._dynamo.reset()
        title = f"forward + backward, C = {C}, {'compiled' if compiled else 'eager'}"
        print(f"\n{title:<42}{'µs':>24}{'ratio':>10}  quartiles")
        times = in_turn(steps(losses, *batch(C, device)), n, device)
        for name, found in times.items():
            pairs = [a / b for a, b in zip(found, times[first], strict=True)]
            low, middle, high = quartiles(pairs)
            print(f"{name:<42}{spread(found):>24}{middle:>10.2f}  {low:.2f} to {high:.2f}")


def bandwidth(n: int, device: torch.device) -> None:
    """Print forward and backward times, and that of a copy, which moves the minimum of data."""
    for C in BANDWIDTH_CLASSES:
        pred, target = batch(C, device, BANDWIDTH_LOGITS[device.type] // C)
        losses = {name: TRAINED[name] for name in BANDWIDTH_LOSSES}
        copy = partial(torch.empty_like(pred).copy_, pred)
        work: dict[str, Work] = {"copy": copy, **steps(losses, pred, target)}
        times = in_turn(work, n, device)
        print(f"\n{f'share of bandwidth, {len(pred)} × {C}':<42}{'µs':>24}{'share':>10}  quartiles")
        for name, found in times.items():
            shares = [a / b for a, b in zip(times["copy"], found, strict=True)]
            low, middle, high = quartiles(shares)
            print(f"{name:<42}{spread(found):>24}{middle:>10.0%}  {low:.0%} to {high:.0%}")


def quartiles(values: list[float]) -> tuple[float, float, float]:
    """The three quartiles."""
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, middle, high


def spread(times: list[float]) -> str:
    """Median and quartiles."""
    low, middle, high = quartiles(times)
    return f"{middle:.1f} ({low:.1f}-{high:.1f})"


def draw(both: tuple[list[Times], list[Times]], path: Path) -> None:
    """Save figure 14."""
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
    colours = dict(zip(NAMES, ("#7a7a7a", "#30638e", "#d1495b"), strict=True))
    for axis, times, title in zip(axes, both, ("with", "without"), strict=True):
        for name, colour in colours.items():
            low, middle, high = zip(*(quartiles(one[name]) for one in times), strict=True)
            axis.plot(CLASSES, middle, "o-", ms=3, color=colour, label=name)
            axis.fill_between(CLASSES, low, high, color=colour, alpha=0.2, lw=0)
        axis.set(xlabel="classes", ylabel="forward time, µs", title=f"{title} log-softmax")
        axis.set_ylim(bottom=0)
        axis.legend()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, print and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--n", type=int, default=200, help="timed calls of each loss")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--compile", action="store_true", help="compiled losses, too")
    parser.add_argument("--figure", type=Path, help="where to save figure 14")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()  # otherwise it is random which loss's tensors return to the system
    device = torch.device(options.device)
    more = f"{device}, {options.threads} threads, batch {BATCH}, ξ = {SMOOTHING}, n = {options.n}"
    print_machine(f"{more}; freed memory kept; medians, quartiles in brackets")
    both = figure_14(options.n, device)
    for compiled in (False, True) if options.compile else (False,):
        ratios(options.n, device, compiled)
    bandwidth(max(options.n // 10, 2), device)
    if options.figure:
        draw(both, options.figure)


if __name__ == "__main__":
    main()
