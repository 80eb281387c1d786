"""Scores the samples of a run by every measure that applies. Depends on nothing but the run and its judgements.

A sample that is missing, because the run was not finished or because the server refused it, is scored as an empty
response: wrong, with the reward of a response without an answer.
"""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from numbers import Real
from typing import Any

from arpo_verl.evaluation.judge.prompt import Case, case_of
from arpo_verl.evaluation.judge.reply import Verdict
from arpo_verl.evaluation.prediction import prediction_of, same_text, votes_of
from arpo_verl.evaluation.records import Run, RunHeader, SampleRecord
from arpo_verl.evaluation.score.measures import COMPARISONS, JUDGE, LABELS, MATH_VERIFY, measures_of
from arpo_verl.reward.math_check import MathCheckResult

Truths = tuple[str, ...]
_THREADS = 4


@dataclass(frozen=True)
class Scorers:
    """The functions and verdicts by which samples are scored."""

    check_maths: Callable[[str, Truths], MathCheckResult]
    """The check of a prediction against the accepted answers; it must be thread-safe."""
    reward: Callable[[SampleRecord], Mapping[str, Any]]
    """The training's reward of a sample, and its parts."""
    verdicts: Mapping[Case, Verdict] = field(default_factory=dict)
    """The verdicts of one judge."""
    measure: str | None = None
    """The measure that is the accuracy of all rows; None: each benchmark has its own."""


@dataclass(frozen=True)
class ScoredPrompt:
    """One prompt with all its samples, missing ones included."""

    id: str
    data_source: str
    ability: str
    question: str
    truths: tuple[str, ...]
    extra: Mapping[str, Any]
    values: Mapping[str, list[float]]
    """The values of each measure, the accuracy first; one value a sample."""
    rewards: Mapping[str, list[float]]
    """The reward and its parts; one value a sample."""
    votes: list[str | None]
    """The votes, parallel to the values; None for a sample without an answer."""
    finished: list[SampleRecord]
    """The samples that have a response."""
    missing: int
    """The number of samples without a response, errors included."""
    errors: int
    math_timeouts: int
    math_failures: int
    """The number of answers that math-verify could not compare, because they are too long or for another reason."""
    invalid_verdicts: int

    @property
    def accuracy(self) -> str:
        return next(iter(self.values))


@dataclass(frozen=True)
class ScoredRun:
    """A run with the values of all its samples."""

    header: RunHeader
    prompts: list[ScoredPrompt]
    """The prompts that have a line, in the order of the file."""
    prompts_not_begun: int
    """The number of prompts without a line. They count as wrong; their data source is not known."""
    empty_rewards: Mapping[str, float]
    """The reward of an empty response, and its parts."""
    unjudged: Mapping[str, tuple[int, int]]
    """data source -> (answers without a verdict, answers), where the judge has begun and not finished."""


def score_run(run: Run, scorers: Scorers) -> ScoredRun:
    """Measure all samples of a run.

    Raises:
        ValueError: the run has samples beyond those that its header announces, or no scorer has the wanted measure.
    """
    if scorers.measure is not None and scorers.measure not in LABELS:
        raise ValueError(f"measure {scorers.measure!r}; expected one of {', '.join(LABELS)}")
    grouped: defaultdict[str, list[SampleRecord]] = defaultdict(list)
    for sample in run.samples:
        if not 0 <= sample.sample < run.header.n:
            raise ValueError(f"sample {sample.sample} of {sample.id!r}; the header expects 0 to {run.header.n - 1}")
        grouped[sample.id].append(sample)
    if len(grouped) > run.header.prompts:
        raise ValueError(f"{len(grouped)} prompts; the header expects {run.header.prompts}: were two files joined?")
    judged, unjudged = _judged_sources(run.samples, scorers.verdicts)
    if scorers.measure == JUDGE and (left := sorted({sample.data_source for sample in run.samples} - judged)):
        raise ValueError(f"not all of {', '.join(left)} is judged: run `arpo-verl eval judge` on this file first")
    with ThreadPoolExecutor(_THREADS) as threads:  # while math-verify's processes compute, others are read
        prompts = list(threads.map(lambda samples: _scored(samples, run.header.n, scorers, judged), grouped.values()))
    empty = _numbers(scorers.reward(_without_response(run.samples[0]))) if run.samples else {}
    return ScoredRun(run.header, prompts, run.header.prompts - len(prompts), empty, unjudged)


def _judged_sources(
    samples: Sequence[SampleRecord], verdicts: Mapping[Case, Verdict]
) -> tuple[set[str], dict[str, tuple[int, int]]]:
    """Return the data sources all of whose answers have a verdict, and the counts of those of which only some have."""
    answers: defaultdict[str, list[bool]] = defaultdict(list)
    for sample in samples:
        answers[sample.data_source]  # a source without any answer is judged as a whole: all wrong
        if (case := case_of(sample)) is not None:
            answers[sample.data_source].append(case in verdicts)
    judged = {source for source, known in answers.items() if verdicts and all(known)}
    unjudged = {
        source: (known.count(False), len(known)) for source, known in answers.items() if any(known) and not all(known)
    }
    return judged, unjudged


def _scored(samples: Sequence[SampleRecord], n: int, scorers: Scorers, judged: set[str]) -> ScoredPrompt:
    first = samples[0]
    measures = measures_of(first.data_source, first.ability, first.data_source in judged)
    if scorers.measure is not None:
        measures = tuple(dict.fromkeys((scorers.measure, *measures)))
    finished = [sample for sample in samples if sample.error is None]
    predictions = [prediction_of(sample.output) for sample in finished]
    tally = _Tally(scorers)
    absent = [0.0] * (n - len(finished))
    without_response = [_without_response(first)] * len(absent)
    rewards = [_numbers(scorers.reward(sample)) for sample in (*finished, *without_response)]
    return ScoredPrompt(
        id=first.id,
        data_source=first.data_source,
        ability=first.ability,
        question=first.question,
        truths=tuple(first.truths),
        extra=first.extra,
        values={
            measure: [tally.value(measure, *pair) for pair in zip(finished, predictions, strict=True)] + absent
            for measure in measures
        },
        rewards={part: [reward[part] for reward in rewards] for part in rewards[0]},
        votes=[*votes_of(predictions, _same_answer(measures, scorers)), *[None] * len(absent)],
        finished=finished,
        missing=len(absent),
        errors=len(samples) - len(finished),
        math_timeouts=tally.math_timeouts,
        math_failures=tally.math_failures,
        invalid_verdicts=tally.invalid_verdicts,
    )


def _same_answer(measures: Sequence[str], scorers: Scorers) -> Callable[[str, str], bool]:
    """Return the function that decides whether two answers are one vote; for mathematics, by `check_maths` too."""
    if MATH_VERIFY not in measures:
        return same_text

    def is_same(one: str, other: str) -> bool:
        return same_text(one, other) or scorers.check_maths(one, (other,)) is MathCheckResult.EQUAL

    return is_same


def _without_response(sample: SampleRecord) -> SampleRecord:
    return replace(sample, output="", calls=[], error="missing")


class _Tally:
    """Measures answers, and counts time-outs, failures and invalid verdicts, which a value does not show."""

    def __init__(self, scorers: Scorers) -> None:
        self._scorers = scorers
        self.math_timeouts = 0
        self.math_failures = 0
        self.invalid_verdicts = 0

    def value(self, measure: str, sample: SampleRecord, prediction: str | None) -> float:
        if prediction is None:
            return 0.0
        if measure == MATH_VERIFY:
            found = self._scorers.check_maths(prediction, tuple(sample.truths))
            self.math_timeouts += found is MathCheckResult.TIMEOUT
            self.math_failures += found in (MathCheckResult.TOO_LONG, MathCheckResult.FAILED)
            return float(found is MathCheckResult.EQUAL)
        if measure == JUDGE:
            verdict = self._scorers.verdicts[Case(sample.question, tuple(sample.truths), prediction)]
            self.invalid_verdicts += verdict is Verdict.INVALID
            return float(verdict is Verdict.CORRECT)
        return COMPARISONS[measure](prediction, sample.truths)


def _numbers(reward: Mapping[str, Any]) -> dict[str, float]:
    return {part: float(value) for part, value in reward.items() if isinstance(value, Real)}
