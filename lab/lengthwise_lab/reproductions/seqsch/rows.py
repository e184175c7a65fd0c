"""The rows of sequence scheduling; docs/research/reproductions.md explains them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from lengthwise_lab.reproductions.recorded_lengths import sampled
from lengthwise_lab.reproductions.seqsch.replay import ReplayCost, describe_replays
from lengthwise_lab.reproductions.seqsch.strategies import ANSWERS, RUNS, Strategy, strategies
from lengthwise_lab.reproductions.table.row import NumberSource, TableRow, of_requests

#: (strategy, average length, effective ratio %, failures %, answers/s) from the README.
_README: tuple[tuple[str, float, float, float | None, float], ...] = (
    ("vanilla", 370.84, 33.91, None, 1.39),
    ("untuned perception", 374.83, 33.53, None, 1.32),
    ("predicted, sorted", 297.48, 42.17, None, 1.64),
    ("predicted, VBS and FCR", 215.06, 47.22, 16.5, 2.30),
    ("ground truth, VBS and FCR", 196.34, 61.57, None, 2.69),
)

#: (strategy, average length, effective ratio %) from another replay of the same 1,024 answers, not
#: all of which are in our copy.
_REPLAYED: tuple[tuple[str, float, float], ...] = (
    ("vanilla", 364.5, 34.3),
    ("ground truth, sorted", 176.5, 70.9),
    ("ground truth, VBS and FCR", 197.3, 63.5),
    ("noise, VBS and FCR, right prompts", 231.7, 54.1),
    ("noise, VBS and FCR", 239.1, 49.1),
)

#: Tolerances of a reproduction: three times the scatter of runs, a fifth of it for the averaged
#: draws, and the effect of the prompts that are not in our copy.
_LENGTH_TOLERANCE, _RATIO_TOLERANCE = 15.0, 2.5


#: Their decoding steps, of the same replay; the last with predictions, its restarts fixed.
_STEPS: tuple[tuple[str, float], ...] = (
    ("vanilla", 23_263),
    ("ground truth, sorted", 11_231),
    ("ground truth, VBS", 9_796),
    ("ground truth, VBS and FCR", 10_208),
    ("noise, VBS and FCR, right prompts", 13_923),
)

#: One draw scatters by 3 % in steps, mostly because of its longest answers.
_STEPS_TOLERANCE = 0.08

#: Other published gains of throughput over vanilla, %.
_GAINS: tuple[tuple[str, float, NumberSource, str], ...] = (
    ("as the abstract has it", 86.0, "paper", "its README's two throughputs give 65 %"),
    ("as the README has it", 65.5, "readme", "2.30 over 1.39 answers/s"),
)


#: A figure of a replay: (as published, with all waste).
_Figure = Callable[[ReplayCost], tuple[float, float]]


def rows(data: Path | None) -> Sequence[TableRow]:
    """Return all of sequence scheduling's rows; takes some seconds."""
    answers = sampled(data)
    runs: dict[str, list[Strategy]] = {}
    for seed in range(42, 42 + RUNS):
        for name, strategy in strategies(answers, seed).items():
            runs.setdefault(name, []).append(strategy)
    stand_in = "" if answers.recorded else "stand-in lengths"
    make = {name: _Rows(name, each, stand_in) for name, each in runs.items()}
    found = []
    for name, length, ratio, failures, per_s in _README:
        # The README's numbers are measured on a GPU, with the failures of its own predictor.
        of = make[name]
        found.append(of.row("average length", "tokens", length, "readme", _length))
        found.append(of.row("effective token ratio", "%", ratio, "readme", _ratio))
        if name == "vanilla":
            found.append(of.row("token slots wasted", "%", 66.0, "readme", _wasted))
        if failures is not None:
            found.append(of.row("failure ratio", "%", failures, "readme", _failures))
        found.append(of.row("throughput", "1/s", per_s, "readme", _per_s, note=_SECONDS))
    for what, gain, kind, note in _GAINS:
        of = make["predicted, VBS and FCR"]
        found.append(of.gain(f"throughput, gain over no scheduling, {what}", gain, kind, note))
    for name, length, ratio in _REPLAYED:
        found += [
            make[name].row(
                f"{what}, step replay", unit, published, "third party", figure, tolerance=tolerance
            )
            for what, unit, published, figure, tolerance in (
                ("average length", "tokens", length, _length, _LENGTH_TOLERANCE),
                ("effective token ratio", "%", ratio, _ratio, _RATIO_TOLERANCE),
            )
        ]
    found.append(
        make["noise, VBS and FCR, right prompts"].row(
            "average length with failed attempts, step replay",
            "tokens",
            250.0,
            "third party",
            _all_of_it,
            tolerance=_LENGTH_TOLERANCE,
        )
    )
    found.append(
        make["noise, VBS and FCR, right prompts"].row(
            "failure ratio, step replay", "%", 11.2, "third party", _failures, tolerance=2.0
        )
    )
    for name, steps in _STEPS:
        found.append(
            make[name].row(
                "decoding steps",
                "steps",
                steps,
                "third party",
                _steps,
                note="lengthwise: fewer, of larger batches, whose steps take longer",
                tolerance=_STEPS_TOLERANCE * steps,
            )
        )
    return found


_SECONDS = "seconds by steps, a line through two published times"

_SUBSTITUTES = {
    "vanilla": "lengthwise: batches by memory with the predicted lengths",
    "untuned perception": "predictions that say nothing in the place of its own",
    "predicted, sorted": "a normal error of 62 tokens in the place of its tuned LLM",
    "predicted, VBS and FCR": "a normal error of 62 tokens in the place of its tuned LLM",
    "noise, VBS and FCR": "a normal error of 62 tokens before it is cut at 1 and 512, 54 after",
    "noise, VBS and FCR, right prompts": "a normal error of 62 tokens before it is cut, 54 after",
}


def _length(cost: ReplayCost) -> tuple[float, float]:
    return cost.average_length, cost.computed / cost.answers


def _all_of_it(cost: ReplayCost) -> tuple[float, float]:
    return cost.computed / cost.answers, cost.computed / cost.answers


def _ratio(cost: ReplayCost) -> tuple[float, float]:
    return 100 * cost.effective, 100 * cost.effective_of_all


def _wasted(cost: ReplayCost) -> tuple[float, float]:
    published, all_of_it = _ratio(cost)
    return 100 - published, 100 - all_of_it


def _failures(cost: ReplayCost) -> tuple[float, float]:
    return 100 * cost.failure_ratio, 100 * cost.failure_ratio


def _per_s(cost: ReplayCost) -> tuple[float, float]:
    return cost.per_s, cost.per_s


def _steps(cost: ReplayCost) -> tuple[float, float]:
    return cost.steps, cost.steps


class _Rows:
    """The rows of one strategy.

    Args:
        name: The strategy.
        each: One for each draw of answers.
        stand_in: The note of lengths that are not recorded; empty: they are.
    """

    def __init__(self, name: str, each: Sequence[Strategy], stand_in: str) -> None:
        self._name, self._each = name, each
        self._stand_in = stand_in
        self._details = self._of_requests()

    def row(
        self,
        what: str,
        unit: str,
        published: float,
        kind: NumberSource,
        figure: _Figure,
        *,
        note: str = "",
        tolerance: float | None = None,
    ) -> TableRow:
        """Make the row of one figure, the mean over the draws."""
        corrected = [one.corrected or one.reproduced for one in self._each]
        counts = "corrected: wasted attempts counted" if figure in (_length, _ratio) else ""
        return self._row(
            what,
            unit,
            published,
            kind,
            fmean(figure(one.reproduced)[0] for one in self._each),
            fmean(figure(one)[1] for one in corrected),
            fmean(figure(one.lengthwise)[1] for one in self._each),
            (note, counts),
            tolerance,
        )

    def gain(self, what: str, published: float, kind: NumberSource, note: str) -> TableRow:
        """Make the row of the gain of throughput over no scheduling, %."""
        vanilla = fmean(one.vanilla.per_s for one in self._each)

        def over(costs: Sequence[ReplayCost]) -> float:
            return 100 * (fmean(cost.per_s for cost in costs) / vanilla - 1)

        return self._row(
            what,
            "%",
            published,
            kind,
            over([one.reproduced for one in self._each]),
            over([one.corrected or one.reproduced for one in self._each]),
            over([one.lengthwise for one in self._each]),
            (note, _SECONDS),
            None,
        )

    def _row(
        self,
        what: str,
        unit: str,
        published: float,
        kind: NumberSource,
        reproduced: float,
        corrected: float,
        lengthwise: float,
        notes: Sequence[str],
        tolerance: float | None,
    ) -> TableRow:
        substitute = _SUBSTITUTES.get(self._name, "")
        return TableRow(
            system="SeqSch",
            name=what,
            setting=f"{self._name}, {ANSWERS} answers, groups of 256",
            unit=unit,
            published=published,
            kind=kind,
            reproduced=reproduced,
            corrected=corrected,
            lengthwise=lengthwise,
            tolerance=tolerance,
            note="; ".join(filter(None, (self._stand_in, substitute, *notes))),
            details=self._details,
        )

    def _of_requests(self) -> dict[str, Any]:
        tokens = [one.tokens for one in self._each]
        corrected = self._each[0].corrected is not None
        return of_requests(
            f"{ANSWERS} prompts at once: {self._name}",
            baseline=describe_replays(
                [one.vanilla for one in self._each], tokens, policy="batches of 16 as they come"
            ),
            reproduced=describe_replays(
                [one.reproduced for one in self._each], tokens, policy=self._name
            ),
            corrected=describe_replays(
                [one.corrected or one.reproduced for one in self._each],
                tokens,
                policy=self._name + (", resumed in the right order" if corrected else ""),
            ),
            lengthwise=describe_replays(
                [one.lengthwise for one in self._each], tokens, policy="batches by memory, resumed"
            ),
        )
