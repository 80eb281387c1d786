"""Runs of an evaluation with answers, made by hand."""

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from evaluation_records import HEADER, sample

from arpo_verl.evaluation.records import CallRecord, RunHeader, SampleRecord, line_of

SAMPLE = sample(
    "q0", 0, data_source="hotpotqa", ability="qa", question="Which city?", truths=["Paris"],
    generated_tokens=10, response_tokens=15, seconds=1.0,
)  # fmt: skip


def header(prompts: int, n: int) -> RunHeader:
    sampling = {"temperature": 0.6, "top_p": 0.95, "top_k": None}
    return replace(HEADER, prompts=prompts, n=n, sampling=sampling, limits={"max_tool_calls": 3})


def boxed(answer: str) -> str:
    return rf"I think. <answer>It is \boxed{{{answer}}}.</answer>"


def samples(id: str, *answers: str | None, **fields: object) -> list[SampleRecord]:
    """Return the samples of one prompt that answer as given; None is a response without an answer."""
    return [
        replace(SAMPLE, id=id, sample=number, output="I give up." if answer is None else boxed(answer), **fields)
        for number, answer in enumerate(answers)
    ]


def failed(sample: SampleRecord) -> SampleRecord:
    return replace(sample, output="", stop_reason="error", error="HTTP 400: too long", generated_tokens=0)


def call(tool: str = "search", status: str = "ok") -> CallRecord:
    return CallRecord(tool, status, 0.5)


def write_run(path: Path, head: RunHeader, records: Iterable[SampleRecord]) -> Path:
    path.write_bytes(b"".join([line_of(head), *map(line_of, records)]))
    return path


def write_judgements(path: Path, judge: str, replies: Iterable[tuple[SampleRecord, str, str]]) -> None:
    """Write (sample, prediction, reply) as the judge's file at `path`."""
    with path.open("a") as file:
        for sample, prediction, reply in replies:
            line = {
                "judge": judge,
                "prompt_hash": "0" * 16,
                "question": sample.question,
                "truths": sample.truths,
                "prediction": prediction,
                "verdict": "-",
                "reply": reply,
            }
            file.write(json.dumps(line) + "\n")
