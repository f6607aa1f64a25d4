"""Learn a loss with a proposer of your own: any program that reads scores and writes expressions.

Here it is a script that edits the best expression so far. Put a language model in its place: what
it has to write are expressions, and what it reads are the lines that `tell` prints.

Run: python examples/proposer.py
"""

from __future__ import annotations

import argparse
import random
from collections.abc import Iterator, Sequence

import evomal

WRAPPERS = ("abs({})", "square({})", "tanh({})", "sqrt(abs({}))", "mul({}, abs(sub(y, f)))")
"""What the script knows of losses."""


class ScriptedProposer:
    """Proposes expressions, a few at a time, from the scores of earlier ones."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)
        self._best: evomal.Score | None = None

    def propose(self) -> list[str]:
        """The next expressions; some of them may be nonsense."""
        if self._best is None:
            return ["square(sub(y, f))", "abs(sub(y, f))", "cross_entropy(y, f)"]
        inner = self._best.given
        edits = [wrapper.format(inner) for wrapper in WRAPPERS]
        edits += [f"add({inner}, {wrapper.format('sub(y, f)')})" for wrapper in WRAPPERS[:3]]
        return self._random.sample(edits, 3)

    def tell(self, scores: Sequence[evomal.Score]) -> Iterator[str]:
        """Learn from the scores; what a language model would be told, one line per loss."""
        for score in scores:
            if score.status == "evaluated" and score.fitness is not None:
                yield f"{score.fitness:.4f}  {score.given}"
                best = None if self._best is None else self._best.fitness
                if best is None or score.fitness < best:
                    self._best = score
            else:
                yield f"{score.status}  {score.given}: {score.reason}"

    @property
    def best(self) -> evomal.Score:
        """The best loss so far."""
        if self._best is None:
            raise SystemExit("No loss was trained.")
        return self._best


def main() -> None:
    """Propose, score, tell; then print the best loss."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--testing-steps", type=int, default=100)
    parser.add_argument("--save", default=None, metavar="PATH")
    options = parser.parse_args()

    task = evomal.load_task("diabetes/mlp", download=True)
    proposer = ScriptedProposer(options.seed)
    settings = {"preset": "quick", "testing_steps": options.testing_steps}
    with evomal.Scorer(task, seed=options.seed, **settings) as scorer:
        for _ in range(options.rounds):
            print(*proposer.tell(scorer.score(proposer.propose())), sep="\n")
    best = proposer.best
    print(f"Best: {best.given}, {best.fitness:.4f}; task loss: {best.task_loss_fitness:.4f}")
    if options.save is not None and best.loss is not None:
        evomal.save_loss(best.loss, options.save)


if __name__ == "__main__":
    main()
