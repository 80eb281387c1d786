"""The numbers of a scored run: by data source, by a field of the dataset, and over all; in plain values for JSON.

Each number is a mean over prompts with its standard error. What describes the model's behaviour, such as tool calls and
tokens, is about the samples that have a response; all else counts the missing ones as wrong.
"""

import statistics
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from arpo_verl.evaluation.records import SampleRecord
from arpo_verl.evaluation.score.metrics import Estimate, best_at_k, majority, mean_over_prompts, subset_sizes
from arpo_verl.evaluation.score.scoring import ScoredPrompt, ScoredRun

ALL = "all"
ABILITY = "ability"
"""The field that every dataset has, in `extra_info` or as a column."""
ACCURACY = "accuracy"
"""The measure of the row over all: each prompt's accuracy is that of its benchmark."""


@dataclass(frozen=True)
class Behaviour:
    """The behaviour of the samples with a response. The estimates are None if there are none."""

    samples: int
    without_answer: int
    tool_calls: Estimate | None
    """The calls of a sample."""
    generated_tokens: Estimate | None
    response_tokens: Estimate | None
    seconds: Estimate | None
    calls: Mapping[str, Mapping[str, int]]
    """The number of calls by tool and status."""
    stop_reasons: Mapping[str, int]


@dataclass(frozen=True)
class Summary:
    """The numbers of some prompts."""

    label: str
    prompts: int
    n: int
    """The number of samples a prompt."""
    missing: int
    """The number of samples without a response; `errors` of them have a line that says why."""
    errors: int
    math_timeouts: int
    math_failures: int
    invalid_verdicts: int
    measures: Mapping[str, Mapping[str, Estimate]]
    """The metrics `avg@n`, `pass@k` and `maj@n` of each measure, the accuracy first."""
    rewards: Mapping[str, Estimate]
    """The reward and its parts."""
    behaviour: Behaviour


def summarize(run: ScoredRun, by: str | None = None) -> list[Summary]:
    """Return the rows of a report: data sources, then the values of a field within each, then all.

    Args:
        run: the scored run.
        by: a key of `extra`, or `ability`, to split data sources by; where some prompts lack it they are a row.

    Raises:
        ValueError: no prompt has the key.
    """
    abilities = defaultdict(set)
    for prompt in run.prompts:
        abilities[prompt.data_source].add(prompt.ability)
    # A data source that mixes maths and questions has two accuracies, and so two rows.
    sources = _grouped(
        (f"{one.data_source} ({one.ability})" if len(abilities[one.data_source]) > 1 else one.data_source, one)
        for one in run.prompts
    )
    groups = dict(sources)
    if by is not None:
        groups.update(_split(sources, by))
    summaries = [_summary(label, prompts, run.header.n) for label, prompts in groups.items()]
    if len(sources) != 1 or run.prompts_not_begun:
        summaries.append(_over_all(run))
    return summaries


def _split(sources: Mapping[str, Sequence[ScoredPrompt]], by: str) -> dict[str, list[ScoredPrompt]]:
    split = {}
    for source, prompts in sources.items():
        if any(_value(prompt, by) for prompt in prompts):
            parts = _grouped((f"{source}, {by} {_value(prompt, by) or 'unknown'}", prompt) for prompt in prompts)
            split.update(dict(sorted(parts.items())))
    if not split:
        known = _fields_to_split_by([prompt for prompts in sources.values() for prompt in prompts])
        has = f"the file has {', '.join(known)}: name one of them" if known else "the file has nothing of the kind"
        raise ValueError(
            f"no prompt has {by!r} to split by; {has}, or leave --by out. It is a field of the dataset's extra_info, "
            f"which a benchmark without such labels has empty"
        )
    return split


def _value(prompt: ScoredPrompt, by: str) -> str:
    """Return a prompt's value of a field, empty where it has none."""
    value = prompt.extra.get(by)
    if value in (None, "") and by == ABILITY:
        value = prompt.ability
    return "" if value is None else str(value)


def _fields_to_split_by(prompts: Sequence[ScoredPrompt]) -> list[str]:
    """Return the fields that have the same value in several prompts, unlike ids."""
    fields = sorted({key for prompt in prompts for key in (*prompt.extra, ABILITY)})
    values = {name: [value for prompt in prompts if (value := _value(prompt, name))] for name in fields}
    return [name for name, found in values.items() if found and (len(set(found)) < len(found) or len(prompts) == 1)]


def _grouped(labelled: Iterable[tuple[str, ScoredPrompt]]) -> dict[str, list[ScoredPrompt]]:
    groups: defaultdict[str, list[ScoredPrompt]] = defaultdict(list)
    for label, prompt in labelled:
        groups[label].append(prompt)
    return dict(groups)


def _summary(label: str, prompts: Sequence[ScoredPrompt], n: int) -> Summary:
    measures = {
        measure: _measure([(prompt.values[measure], prompt.votes) for prompt in prompts], n)
        for measure in prompts[0].values
    }
    rewards = {part: [prompt.rewards[part] for prompt in prompts] for part in prompts[0].rewards}
    return _with_counts(label, prompts, n, measures, {part: _mean(values) for part, values in rewards.items()})


def _over_all(run: ScoredRun) -> Summary:
    n, empty = run.header.n, run.prompts_not_begun
    names = {prompt.accuracy for prompt in run.prompts}
    name = names.pop() if len(names) == 1 else ACCURACY
    accuracies = [(prompt.values[prompt.accuracy], prompt.votes) for prompt in run.prompts]
    accuracies += [([0.0] * n, [None] * n)] * empty
    rewards = {
        part: _mean([*(prompt.rewards[part] for prompt in run.prompts), *[[value] * n] * empty])
        for part, value in run.empty_rewards.items()
    }
    summary = _with_counts(ALL, run.prompts, n, {name: _measure(accuracies, n)}, rewards)
    return replace(summary, prompts=summary.prompts + empty, missing=summary.missing + n * empty)


def _with_counts(
    label: str,
    prompts: Sequence[ScoredPrompt],
    n: int,
    measures: dict[str, dict[str, Estimate]],
    rewards: dict[str, Estimate],
) -> Summary:
    return Summary(
        label=label,
        prompts=len(prompts),
        n=n,
        missing=sum(prompt.missing for prompt in prompts),
        errors=sum(prompt.errors for prompt in prompts),
        math_timeouts=sum(prompt.math_timeouts for prompt in prompts),
        math_failures=sum(prompt.math_failures for prompt in prompts),
        invalid_verdicts=sum(prompt.invalid_verdicts for prompt in prompts),
        measures=measures,
        rewards=rewards,
        behaviour=_behaviour(prompts),
    )


def _measure(prompts: Sequence[tuple[list[float], list[str | None]]], n: int) -> dict[str, Estimate]:
    """Return every metric of one measure; `prompts` are pairs of values and votes."""
    metrics = {f"avg@{n}": _mean([values for values, _ in prompts])}
    for k in subset_sizes(n):
        metrics[f"pass@{k}"] = mean_over_prompts([best_at_k(values, k) for values, _ in prompts])
    metrics[f"maj@{n}"] = mean_over_prompts([majority(votes, values) for values, votes in prompts])
    return metrics


def _mean(samples_by_prompt: Iterable[Sequence[float]]) -> Estimate:
    return mean_over_prompts([statistics.fmean(samples) for samples in samples_by_prompt])


def _behaviour(prompts: Sequence[ScoredPrompt]) -> Behaviour:
    finished = [prompt.finished for prompt in prompts if prompt.finished]
    samples = [sample for group in finished for sample in group]

    def mean_of(value: Callable[[SampleRecord], float]) -> Estimate | None:
        return _mean([[value(sample) for sample in group] for group in finished]) if finished else None

    calls: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for sample in samples:
        for call in sample.calls:
            calls[call.tool][call.status] += 1
    return Behaviour(
        samples=len(samples),
        without_answer=sum(vote is None for prompt in prompts for vote in prompt.votes[: len(prompt.finished)]),
        tool_calls=mean_of(lambda sample: len(sample.calls)),
        generated_tokens=mean_of(lambda sample: sample.generated_tokens),
        response_tokens=mean_of(lambda sample: sample.response_tokens),
        seconds=mean_of(lambda sample: sample.seconds),
        calls={tool: dict(statuses.most_common()) for tool, statuses in sorted(calls.items())},
        stop_reasons=dict(Counter(sample.stop_reason for sample in samples).most_common()),
    )
