"""A step that is done many times in the same memory: on GPUs as a CUDA graph.

Of a small network, a GPU is done sooner than Python has started its hundreds of operations. As a
graph they are started once, all together.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

WARM_UP = 3
"""Calls before a step is recorded, in which libraries and optimisers set up what they keep."""

Step = Callable[[], None]


def repeated(step: Step, device: torch.device, *, graphs: bool) -> Step:
    """The step itself, or on a CUDA device, if `graphs`, one that replays a recording of it.

    Parameters
    ----------
    step
        Does the same operations on the same tensors at every call; what changes in between is
        written into tensors that it reads. It must not wait for the device.
    device
        Where it works.
    graphs
        Whether it may be recorded.
    """
    return _Repeated(step, device) if graphs and has_graphs(device) else step


def has_graphs(device: torch.device) -> bool:
    """Whether steps on the device can be recorded."""
    return device.type == "cuda"


class _Repeated:
    def __init__(self, step: Step, device: torch.device) -> None:
        self._step = step
        self._device = device
        self._calls = 0
        self._replay: Step | None = None

    def __call__(self) -> None:
        if self._replay is not None:
            self._replay()
        elif self._calls < WARM_UP:
            self._calls += 1
            aside(self._step, self._device)
        else:
            self._replay = recorded(self._step, self._device)
            self._replay()


def aside(step: Step, device: torch.device) -> None:
    """Do a step on a stream of its own, as what is recorded later has to be warmed up."""
    with torch.cuda.device(device):
        here = torch.cuda.current_stream()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(here)
        with torch.cuda.stream(stream):
            step()
        here.wait_stream(stream)


def recorded(step: Step, device: torch.device) -> Step:
    """What replays a step; recording does nothing yet."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.device(device), torch.cuda.graph(graph):
        step()
    return graph.replay
