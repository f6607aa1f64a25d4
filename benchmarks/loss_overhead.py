"""The cost of a learned loss compared with cross-entropy: in a training step, and alone.

Run: EVOMAL_DATA=… python benchmarks/loss_overhead.py [--tasks mnist/lenet5 mnist/mlp] [--n 300]

A training step (forward, loss, backward, fused SGD on one batch of 128) with a learned loss of 10
nodes and one with the built-in loss are timed alternately, and so are both losses alone, forward
and backward on the same logits. Prints hardware, versions, n, medians, quartiles and ratios.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch
from candidate_cost import print_machine
from torch import Tensor, nn

import evomal
from evomal.losses.symbolic import SymbolicLoss
from evomal.tasks.task import Task
from evomal.training.optimizing import new_optimizer

TEN_NODES = "sub(mul(y, abs(log(f))), square(sub(y, f)))"
Loss = Callable[[Tensor, Tensor], Tensor]


def step_time(task: Task, learner: nn.Module, sgd: torch.optim.Optimizer, loss: Loss) -> float:
    """Microseconds of one training step."""
    batch = task.batch(task.train, slice(0, task.batch_size))
    start = time.perf_counter()
    sgd.zero_grad()
    loss(learner(batch.inputs), batch.targets).backward()  # type: ignore[no-untyped-call]
    sgd.step()
    synchronize(task)
    return 1e6 * (time.perf_counter() - start)


def loss_time(task: Task, pred: Tensor, loss: Loss) -> float:
    """Microseconds of a loss alone, forward and backward."""
    targets = task.train.targets[: len(pred)]
    start = time.perf_counter()
    torch.autograd.grad(loss(pred, targets), pred)
    synchronize(task)
    return 1e6 * (time.perf_counter() - start)


def synchronize(task: Task) -> None:
    """Wait for a GPU."""
    if task.device.type == "cuda":
        torch.cuda.synchronize(task.device)


def compare(label: str, timed: Callable[[Loss], float], losses: tuple[Loss, Loss], n: int) -> None:
    """Time both alternately, changing the order in every pair; print."""
    pairs = []
    for count in range(n + 20):
        order = (0, 1) if count % 2 else (1, 0)
        times = [0.0, 0.0]
        for which in order:
            times[which] = timed(losses[which])
        pairs.append(times)
    pairs = pairs[20:]
    learned, own = (statistics.median(pair[i] for pair in pairs) for i in (0, 1))
    low, _, high = statistics.quantiles([pair[0] / pair[1] for pair in pairs], n=4)
    print(
        f"{label:<32}{learned:9.0f}{own:9.0f}{learned / own:8.3f}  "
        f"pairwise quartiles {low:.3f} to {high:.3f}"
    )


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=["mnist/lenet5", "mnist/mlp"])
    parser.add_argument("--n", type=int, default=300)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    print_machine(f"n = {options.n}, {TEN_NODES}")
    for threads in options.threads:
        torch.set_num_threads(threads)
        print(f"{threads} thread(s), microseconds    {'learned':>9}{'built-in':>9}{'ratio':>8}")
        for name in options.tasks:
            task = evomal.load_task(name, device=options.device)
            weights = torch.linspace(0.8, 1.2, 9)
            learned = SymbolicLoss(TEN_NODES, weights, task.link).to(task.device)
            losses = (learned, task.task_loss)
            learner = task.new_model(0)
            parameters = list(learner.parameters())
            sgd = new_optimizer(task, parameters)
            compare(
                f"{name}, training step",
                lambda loss, t=task, m=learner, s=sgd: step_time(t, m, s, loss),  # type: ignore[misc]
                losses,
                options.n,
            )
            pred = task.new_model(0)(task.batch(task.train, slice(0, task.batch_size)).inputs)
            pred = pred.detach().requires_grad_()
            compare(
                f"{name}, loss alone",
                lambda loss, t=task, p=pred: loss_time(t, p, loss),  # type: ignore[misc]
                losses,
                options.n,
            )


if __name__ == "__main__":
    main()
