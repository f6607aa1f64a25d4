"""A method driven by fitness that follows from its losses: what it asks for, seeds, states."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from evomal.errors import InputError
from evomal.losses.form import Form
from evomal.losses.meta import MetaLoss
from evomal.methods.base import STATUSES, Archive, Candidate, Method, Outcome, Status
from evomal.methods.settings import SearchSettings
from evomal.seeding import derive_seed
from evomal.testing.expectations import (
    expect,
    expect_equal,
    expect_json,
    expect_refusal,
    generators_untouched,
)

_FORMS = [
    Form("identity"),
    Form("sigmoid", inputs=("w",)),
    Form("softmax", weight=(1.0, 2.0, 0.5), ignore_index=1),
]

_UNTRAINED: tuple[Status, ...] = ("rejected", "diverged", "failed")

Judge = Callable[[Candidate], tuple[Status, float]]


class _Told(NamedTuple):
    """A generation: what was asked for, as text; what was told; the state after that."""

    asked: list[tuple[int, int, str, str]]
    outcomes: list[Outcome]
    state: dict[str, Any]


class Drive:
    """A method with its settings, to be driven again and again from the start.

    Parameters
    ----------
    method_type
        The class.
    settings
        Its settings.
    """

    def __init__(self, method_type: type[Method], settings: SearchSettings) -> None:
        self.type = method_type
        self.name = method_type.name
        self.settings = settings

    def check(self, *, draws: bool) -> None:
        """Check all there is to check without work on candidates."""
        for form in _FORMS:
            self.run(form, 0, _by_loss)
        self.seeds(draws)
        self.states(_by_loss)
        self.states(_none_is_trained)
        self.stops_within_a_generation()
        self.damaged_states()

    def new(self, form: Form, seed: int) -> Method:
        """The method before its first generation."""
        return self.type(self.settings, form, seed)

    def run(self, form: Form, seed: int, judge: Judge) -> list[_Told]:
        """All generations."""
        with generators_untouched(f"The method {self.name}"):
            return self.rest(self.new(form, seed), judge)

    def rest(self, method: Method, judge: Judge) -> list[_Told]:
        """The generations that are left."""
        told = []
        while not method.finished:
            told.append(self.generation(method, judge))
        count = method.generation
        expect_equal(count, method.generations, f"The generations of {self.name} at its end")
        asked, about = method.archive.counts.total(), method.expected_candidates
        near = about / 2 <= asked <= 2 * about
        expect(near, f"{self.name} expects {about} candidates, but asks for {asked}.")
        return told

    def generation(self, method: Method, judge: Judge) -> _Told:
        """One generation, checked."""
        before, done = method.generation, method.archive.counts.total()
        outcomes: list[Outcome] = []
        candidates = method.ask()
        expect(len(candidates) > 0, f"{self.name} must ask for a candidate in every generation.")
        while candidates:
            self.candidates(method, candidates, done + len(outcomes))
            for candidate in candidates:
                outcomes.append(_outcome(candidate, method.archive, judge))
                method.archive.add(outcomes[-1])
            candidates = method.ask_more(outcomes)
        summary = method.tell(outcomes)
        expect_equal(summary.number, before, f"The number of the generation that {self.name} tells")
        expect_equal(method.generation, before + 1, f"The generation of {self.name} after tell")
        counts = {status: [o.status for o in outcomes].count(status) for status in STATUSES}
        expect_equal(summary.counts, counts, f"The counts of a generation of {self.name}")
        finite = [o.fitness for o in outcomes if math.isfinite(o.fitness) and not o.halted]
        mean = sum(finite) / len(finite) if finite else None
        expect_equal(summary.mean, mean, f"The mean fitness of a generation of {self.name}")
        best = None if method.archive.best is None else method.archive.best.fitness
        expect_equal(summary.best, best, f"The best fitness in a generation of {self.name}")
        state = method.state_dict()
        expect_json(state, f"The state of {self.name} after generation {before}")
        asked = [_as_text(outcome.candidate) for outcome in outcomes]
        return _Told(asked, outcomes, json.loads(json.dumps(state)))

    def candidates(self, method: Method, candidates: Sequence[Candidate], done: int) -> None:
        """Check what was asked for, after `done` candidates."""
        name, form = self.name, method.form
        numbers = [candidate.number for candidate in candidates]
        expected = list(range(done, done + len(candidates)))
        expect_equal(numbers, expected, f"The numbers of the candidates of {name}, in order,")
        for candidate in candidates:
            loss, identity = candidate.loss, candidate.identity
            expect_equal(
                candidate.generation, method.generation, f"A candidate's generation, {name},"
            )
            expect(type(identity) is str and identity != "", f"{name}: an identity must be a text.")
            again = self.type.identity(loss, candidate.number)
            expect_equal(identity, again, f"{name}.identity of the same loss and number")
            if loss is None:
                continue
            expect(isinstance(loss, MetaLoss), f"{name} must ask for a MetaLoss, not {loss!r}.")
            expect_equal(loss.reduction, "mean", f"The reduction of a loss of {name}")
            weight = None if loss.weight is None else tuple(loss.weight.tolist())
            found = Form(loss.link, loss.inputs, weight, loss.ignore_index)
            expect_equal(found, form, f"The form of a loss of {name}")
            finite = bool(loss.phi.isfinite().all())
            expect(finite, f"{name} must ask for losses with finite weights, not {loss.phi}.")

    def seeds(self, draws: bool) -> None:
        """Check that the seed, and it alone, decides what is asked for."""
        one, again, other = (
            [told.asked for told in self.run(_FORMS[0], seed, _by_loss)] for seed in (1, 1, 2)
        )
        expect(one == again, f"{self.name} must ask for the same with the same seed, but does not.")
        if draws:
            expect(
                one != other,
                f"{self.name} must ask for something else with another seed, but does not; if it "
                "has no randomness, check it with draws=False.",
            )
        else:
            expect(one == other, f"{self.name} depends on its seed; check it with draws=True.")

    def states(self, judge: Judge) -> None:
        """From the state after any generation, a new method asks for what the first one did."""
        told = self.run(_FORMS[0], 5, judge)
        for done in range(1, len(told) + 1):
            what = f"{self.name}, resumed after {done} of {len(told)} generations,"
            method = self.resumed(told[:done])
            expect(
                method.state_dict() == told[done - 1].state,
                f"{what} must have the state that it was given, but has another one.",
            )
            for expected, found in zip(told[done:], self.rest(method, judge), strict=True):
                number = expected.asked[0][1]
                expect(
                    found.asked == expected.asked,
                    f"{what} must ask in generation {number} for what it asked for without a stop, "
                    "to the last bit, but asks for other losses; its state lacks something.",
                )
                expect(
                    found.state == expected.state,
                    f"{what} must have the state that it had without a stop, but it differs after "
                    f"generation {number}.",
                )

    def resumed(self, told: Sequence[_Told]) -> Method:
        """A new method in the state after these generations, with their outcomes."""
        method = self.new(_FORMS[0], 5)
        if told:
            try:
                method.load_state_dict(told[-1].state)
            except InputError as error:
                raise AssertionError(f"{self.name} must take its own state: {error}.") from error
        for generation in told:
            for outcome in generation.outcomes:
                method.archive.add(outcome)
        return method

    def stops_within_a_generation(self) -> None:
        """A run that stopped there asks once more, with some of the outcomes in the archive."""
        told = self.run(_FORMS[0], 5, _by_loss)
        for done, generation in enumerate(told):
            method = self.resumed(told[:done])
            for outcome in generation.outcomes:
                method.archive.add(outcome)
            asked: list[tuple[int, int, str, str]] = []
            candidates = method.ask()
            while candidates:
                asked += map(_as_text, candidates)
                candidates = method.ask_more(generation.outcomes[: len(asked)])
            expect(
                asked == generation.asked,
                f"{self.name} must ask for the same in generation {done} if the archive has "
                "outcomes of that generation already, as after a stop within it, but does not; "
                "read the archive in _tell, not in _ask (except by Archive.knows), and keep what "
                "you need in the state.",
            )

    def damaged_states(self) -> None:
        """Check that they are refused."""
        state = self.run(_FORMS[0], 5, _by_loss)[0].state
        damaged: list[dict[str, Any]] = [
            {},
            {**state, "generation": -1},
            {**state, "method": "no such state"},
            {**state, "no_such_field": 1},
        ]
        for stored in damaged:
            method = self.new(_FORMS[0], 5)
            what = f"{self.name}.load_state_dict of a damaged state {str(stored)[:60]}"
            expect_refusal(lambda m=method, s=stored: m.load_state_dict(s), what)  # type: ignore[misc]


def _outcome(candidate: Candidate, archive: Archive, judge: Judge) -> Outcome:
    """What became of a candidate; one of an identity that was there is a duplicate."""
    earlier = archive.find(candidate)
    if earlier is not None:
        number = earlier.candidate.number
        return Outcome(candidate, "duplicate", earlier.fitness, earlier.loss, source=number)
    status, fitness = judge(candidate)
    return Outcome(candidate, status, fitness, candidate.loss, halted=status == "halted")


def _by_loss(candidate: Candidate) -> tuple[Status, float]:
    """Follows from the loss and its weights: one in five has none, ties now and then."""
    mark = derive_seed("fitness", _text(candidate.loss)) % 50
    if mark % 5 == 0:
        return _UNTRAINED[mark % 3], math.inf
    return "halted" if mark % 7 == 0 else "evaluated", mark / 50


def _none_is_trained(candidate: Candidate) -> tuple[Status, float]:
    return _UNTRAINED[candidate.number % 3], math.inf


def _as_text(candidate: Candidate) -> tuple[int, int, str, str]:
    return candidate.number, candidate.generation, candidate.identity, _text(candidate.loss)


def _text(loss: MetaLoss | None) -> str:
    return "the task loss" if loss is None else json.dumps(loss.to_dict())
