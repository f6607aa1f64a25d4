"""Resumable CMA-ES: the `cmaes` library, asked and told once per generation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from evomal.methods.base import Rank, by_structure
from evomal.methods.stored import require, typed
from evomal.seeding import derive_seed

if TYPE_CHECKING:  # it takes a second, as it imports scipy.stats
    from cmaes import CMA

    from evomal.losses.meta import MetaLoss

FEWEST_POINTS = 4
"""In a generation: the better half of fewer is one point, from which no covariance is learned."""


def by_weights(loss: MetaLoss | None, number: int) -> str:
    """Losses are the same if their weights are equal, too: for methods that search for weights."""
    same = by_structure(loss, number)
    return same if loss is None else f"{same} {loss.phi.tolist()}"


class CMAES:
    """Covariance matrix adaptation evolution strategy (Hansen, 2016).

    It uses only the order of the points, so infinite fitness, or the fitness of a halted training,
    is not a problem. A search that has converged or diverged, as the library judges, restarts with
    another seed.

    It is a deterministic function of its arguments and of the orders that it was told. These
    orders are its state, and loading replays them.

    Parameters
    ----------
    mean
        Where the first generation is centred.
    sigma
        Its standard deviation in every coordinate.
    population_size
        Points in a generation, at least `FEWEST_POINTS`.
    stream
        Names the random stream.
    """

    def __init__(
        self, mean: Sequence[float], sigma: float, population_size: int, *stream: int | str
    ) -> None:
        self._mean = np.array(mean, dtype=np.float64)
        self._sigma = sigma
        self._population_size = population_size
        self._stream = stream
        self._points: list[np.ndarray] = []
        self._orders: list[list[int]] = []
        self._restarts = 0
        self._search = self._new_search()

    def ask(self) -> list[list[float]]:
        """Return the points of the next generation; call it once before each `tell`."""
        self._points = [self._search.ask() for _ in range(self._population_size)]
        return [point.tolist() for point in self._points]

    def tell(self, ranks: Sequence[Rank | float]) -> None:
        """Take the sort keys of the points that `ask` returned, smallest for the best."""
        self._tell(sorted(range(len(ranks)), key=ranks.__getitem__))

    def _tell(self, order: Sequence[int]) -> None:
        """Take the indices of the points, from best to worst."""
        self._search.tell([(self._points[place], float(i)) for i, place in enumerate(order)])
        self._orders.append(list(order))
        if self._search.should_stop():
            self._begin_again(self._restarts + 1)

    def state(self) -> dict[str, Any]:
        """The orders told since the last restart, as JSON values."""
        return {"restarts": self._restarts, "orders": list(self._orders)}

    def load(self, state: Any, generations: int, what: str) -> None:
        """Restore what `state` returned after a number of generations.

        Raises
        ------
        InputError
            If the state is damaged; `what` names it.
        """
        stored: _Stored = typed(_Stored, state, what)
        places, told = list(range(self._population_size)), len(stored.orders)
        require(
            all(sorted(order) == places for order in stored.orders)
            and (told == generations if stored.restarts == 0 else 0 <= told < generations)
            and stored.restarts >= 0,
            f"{what} does not match {generations} generations",
        )
        self._begin_again(stored.restarts)
        for order in stored.orders:
            self.ask()
            self._tell(order)
        require(self._restarts == stored.restarts, f"{what} continues after a restart")

    def _begin_again(self, restarts: int) -> None:
        self._restarts, self._orders = restarts, []
        self._search = self._new_search()

    def _new_search(self) -> CMA:
        from cmaes import CMA

        seed = derive_seed(*self._stream, self._restarts) % 2**32  # as NumPy's RandomState takes it
        return CMA(self._mean, self._sigma, seed=seed, population_size=self._population_size)


@dataclass(frozen=True)
class _Stored:
    restarts: int
    orders: tuple[tuple[int, ...], ...]
