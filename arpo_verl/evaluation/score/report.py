"""The report of a run: Markdown for humans, and the same numbers unrounded for JSON."""

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from arpo_verl.evaluation.judge.judgements import Judge
from arpo_verl.evaluation.records import ANOTHER_PROGRAM, RunHeader
from arpo_verl.evaluation.score.markdown import number, percent, table
from arpo_verl.evaluation.score.measures import JUDGE, LABELS, wanted_measures
from arpo_verl.evaluation.score.scoring import ScoredRun
from arpo_verl.evaluation.score.summary import Summary

_REWARD_LABELS = {"score": "reward"}


def report_as_markdown(run: ScoredRun, summaries: Sequence[Summary], judge: Judge | None) -> str:
    """Return the report as GitHub's Markdown."""
    notes = "\n".join(f"* {note}" for note in notes_on(run, summaries, judge))
    parts = [
        f"# {run.header.model}",
        _settings(run.header),
        "## Accuracy",
        _accuracy(summaries),
        notes,
        "## Reward of the training",
        _rewards(summaries),
    ]
    if run.header.config != ANOTHER_PROGRAM:  # which does not say
        parts += ["## What the samples are like", _behaviour(summaries), _calls(summaries), _stop_reasons(summaries)]
    return "\n\n".join(part for part in parts if part) + "\n"


def report_as_json(run: ScoredRun, summaries: Sequence[Summary], judge: Judge | None) -> dict[str, Any]:
    """Return the report in plain values; estimates are shares, not percent."""
    return {
        "run": asdict(run.header),
        "judge": None if judge is None else asdict(judge),
        "prompts_not_begun": run.prompts_not_begun,
        "rows": [asdict(summary) for summary in summaries],
        "notes": notes_on(run, summaries, judge),
    }


def notes_on(run: ScoredRun, summaries: Sequence[Summary], judge: Judge | None) -> list[str]:
    """Return the notes that a reader of the numbers needs."""
    n = run.header.n
    expected = run.header.expected_samples
    missing = sum(prompt.missing for prompt in run.prompts) + n * run.prompts_not_begun
    errors = sum(prompt.errors for prompt in run.prompts)
    notes = ["± is one standard error, over prompts." + (f" pass@1 is avg@{n}." if n > 1 else "")]
    if run.header.config == ANOTHER_PROGRAM:
        notes.append(
            f"The answers are another program's: {missing} of {expected} are not in its file and count as wrong. Where "
            f"it has answers alone, the reward is that of the answer in the training's format."
        )
    elif missing:
        notes.append(
            f"{missing} of {expected} samples have no response and count as wrong: {missing - errors} were not "
            f"reached, which the same `arpo-verl eval run` makes up for, and {errors} were refused by the server."
        )
    if run.prompts_not_begun:
        notes.append(
            f"{run.prompts_not_begun} of {run.header.prompts} prompts have no line at all: they count as wrong over "
            f"all, and are in no other row, since their data source is not known."
        )
    if timeouts := sum(prompt.math_timeouts for prompt in run.prompts):
        notes.append(f"math-verify was stopped after its time on {timeouts} answers: they count as wrong.")
    if failures := sum(prompt.math_failures for prompt in run.prompts):
        notes.append(
            f"math-verify could not compare {failures} answers, most often too long ones: they count as wrong."
        )
    invalid = sum(prompt.invalid_verdicts for prompt in run.prompts)
    if judge is not None and any(JUDGE in summary.measures for summary in summaries):
        notes.append(
            f"Judge: {judge.model}, prompt {judge.prompt_hash}; {invalid} verdicts are invalid and count as wrong."
        )
    return notes + _notes_on_unjudged(run)


def _notes_on_unjudged(run: ScoredRun) -> list[str]:
    notes = []
    for source, (left, answers) in run.unjudged.items():
        notes.append(f"{source}: {left} of {answers} answers are not judged: `arpo-verl eval judge` goes on with them.")
    unjudged = sorted(
        {
            prompt.data_source
            for prompt in run.prompts
            if wanted_measures(prompt.data_source, prompt.ability)[0] == JUDGE and JUDGE not in prompt.values
        }
    )
    for source in unjudged:
        notes.append(
            f"{source}: usually measured by a judge; without one its accuracy here is the exact match, which is lower."
        )
    return notes


def _settings(header: RunHeader) -> str:
    sampling = ", ".join(f"{name} {value}" for name, value in header.sampling.items() if value is not None)
    limits = ", ".join(f"{name} {value}" for name, value in header.limits.items() if value is not None)
    tools = ", ".join(header.tools) or "none"
    if header.config == ANOTHER_PROGRAM:
        return f"n {header.n}; answers of another program."
    lines = [f"n {header.n}", sampling, limits, f"tools: {tools}"]
    return "; ".join(line for line in lines if line) + "."


def _accuracy(summaries: Sequence[Summary]) -> str:
    n = summaries[0].n
    metrics = [name for name in next(iter(summaries[0].measures.values())) if n > 1 or name == "avg@1"]
    metrics = [name for name in metrics if name != "pass@1"]
    rows = []
    for summary in summaries:
        for index, (measure, estimates) in enumerate(summary.measures.items()):
            cells = [percent(estimates[name]) for name in metrics]
            if index == 0:
                cells[0] = f"**{cells[0]}**"
            counts = [str(summary.prompts), str(summary.missing)]
            rows.append([summary.label, LABELS.get(measure, measure), *counts, *cells])
    return table(["data source", "measure", "prompts", "missing", *metrics], rows, text_columns=2)


def _rewards(summaries: Sequence[Summary]) -> str:
    parts = list(dict.fromkeys(part for summary in summaries for part in summary.rewards))
    rows = [[summary.label, *(number(summary.rewards.get(part), 3) for part in parts)] for summary in summaries]
    return table(["data source", *(_REWARD_LABELS.get(part, part) for part in parts)], rows)


def _behaviour(summaries: Sequence[Summary]) -> str:
    head = ["data source", "samples", "without answer", "tool calls", "generated tokens", "all tokens", "seconds"]
    rows = []
    for summary in summaries:
        one = summary.behaviour
        rows.append(
            [
                summary.label,
                str(one.samples),
                str(one.without_answer),
                number(one.tool_calls, 2),
                number(one.generated_tokens, 0),
                number(one.response_tokens, 0),
                number(one.seconds, 1),
            ]
        )
    return table(head, rows)


def _calls(summaries: Sequence[Summary]) -> str:
    statuses = list(dict.fromkeys(s for one in summaries for counts in one.behaviour.calls.values() for s in counts))
    rows = [
        [one.label, tool, str(sum(counts.values())), *(str(counts.get(status, 0)) for status in statuses)]
        for one in summaries
        for tool, counts in one.behaviour.calls.items()
    ]
    return table(["data source", "tool", "calls", *statuses], rows, text_columns=2) if rows else ""


def _stop_reasons(summaries: Sequence[Summary]) -> str:
    reasons = list(dict.fromkeys(reason for one in summaries for reason in one.behaviour.stop_reasons))
    rows = [
        [one.label, *(str(one.behaviour.stop_reasons.get(reason, 0)) for reason in reasons)]
        for one in summaries
        if one.behaviour.samples
    ]
    return table(["data source", *(f"ended: {reason}" for reason in reasons)], rows) if rows else ""
