"""A step that is done many times in the same memory: on GPUs as a CUDA graph.

Of a small network, a GPU is done sooner than Python has started its hundreds of operations. As a
graph they are started once, all together.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache

import torch

from evomal.training.numerics import is_out_of_memory

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


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


def aside(step: Step, device: torch.device) -> None:
    """Do a step on another stream, as what is recorded later has to be warmed up."""
    here, stream = torch.cuda.current_stream(device), _stream(device)
    stream.wait_stream(here)
    try:
        with torch.cuda.stream(stream), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*constructed with capturable=True.*", UserWarning)
            step()
    finally:
        here.wait_stream(stream)


def recorded(step: Step, device: torch.device) -> Step:
    """What replays a step; recording does nothing yet.

    Raises
    ------
    RuntimeError
        If the step cannot be recorded, or its memory is used up.
    """
    graph, here = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    try:
        with torch.cuda.device(device), torch.cuda.graph(graph):
            step()
    except RuntimeError as error:
        torch.cuda.set_stream(here)  # where the recording could not be ended, it is not left
        cause = error.__context__ if isinstance(error.__context__, RuntimeError) else error
        if is_out_of_memory(cause):
            raise cause from None
        raise RuntimeError(
            "A step cannot be recorded as a CUDA graph, as the base learner, the task loss or the "
            f"data do what that does not allow; leave out --cuda-graphs. It said: {cause}"
        ) from cause
    return graph.replay
