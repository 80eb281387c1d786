"""Records of an evaluation, made up for tests."""

from dataclasses import replace
from typing import Any

from arpo_verl.evaluation.records import DataFile, RunHeader, SampleRecord

HEADER = RunHeader(
    model="tiny",
    tokenizer="models/tiny",
    weights=None,
    base_url="http://127.0.0.1:8000",
    token_ids="server",
    sampling={
        "temperature": 0.0, "top_p": 1.0, "top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0, "seed": 0,
    },
    limits={"max_tool_calls": 6},
    call_format={"format": "arpo_tags"},
    tools=["python", "search"],
    tool_files=[DataFile("tools.yaml", "12ab")],
    overrides=["arpo.max_tool_calls=6"],
    config="pkg://arpo_verl.config/arpo_trainer",
    data=[DataFile("validation.parquet", "34cd")],
    prompts=3,
    n=2,
    versions={"verl": "0.9.1"},
)  # fmt: skip

_SAMPLE = SampleRecord(
    id="",
    sample=0,
    data_source="tiny_world/python",
    ability="python",
    question="1+1?",
    truths=["2"],
    output="<answer>\\boxed{2}</answer>",
    calls=[],
    generated_tokens=7,
    response_tokens=9,
    stop_reason="completed",
    error=None,
    seconds=0.5,
    extra={},
)


def sample(prompt: str, number: int, **values: Any) -> SampleRecord:
    """Return a sample of a prompt."""
    return replace(_SAMPLE, id=prompt, sample=number, **values)
