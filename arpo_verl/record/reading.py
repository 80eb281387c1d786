"""Reads the record of a step, of a run that goes on or has died too.

A line that does not end in a line feed is one that is being written, or was when a process died: it is left out and
named under `RecordedStep.problems`, as are prompts that the first line counts and that are not there. Any other line
that is not a record is an error.
"""

import json
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from arpo_verl.record.content import (
    FORMAT,
    VERSION,
    RecordedCall,
    RecordedLeaf,
    RecordedPrompt,
    RecordedSegment,
    RecordedStep,
)
from arpo_verl.record.verl_rows import is_verl_row, step_of_verl_rows
from arpo_verl.rollout.tree import Decision, Refusal

Record = TypeVar("Record", Decision, Refusal, RecordedCall, RecordedSegment, RecordedLeaf, RecordedPrompt)


def read_step(path: Path) -> RecordedStep:
    """Read a file. One of verl's own rows is read as leaves of one segment each, without trees.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: it is not a record, or of another version; the message says where and what to do.
    """
    content = path.read_bytes()
    *lines, rest = content.split(b"\n")
    if not lines:
        what = "is empty" if not rest else "has no whole line"
        raise ValueError(f"{path} {what}; expected the record of a step: look again when it has been written")
    header = parsed(lines[0], f"{path}, line 1")
    if is_verl_row(header):
        rows = [parsed(line, f"{path}, line {number}") for number, line in enumerate(lines, 1)]
        return step_of_verl_rows(rows, path)
    step = _header(header, path)
    prompts = [prompt_of_line(line, f"{path}, line {number}") for number, line in enumerate(lines[1:], 2)]
    problems = [f"{path}: the last line is not whole and was left out"] if rest else []
    if len(prompts) != step["size"]:
        problems.append(f"{path}: {len(prompts)} of {step['size']} prompts are there")
    return RecordedStep(**step, prompts=prompts, problems=problems)


def prompt_of_line(line: bytes, where: str) -> RecordedPrompt:
    """Return the prompt that a line holds; `where` names it in an error.

    Raises:
        ValueError: it holds none.
    """
    values = parsed(line, where)
    segments = []
    for place, one in enumerate(_list(values, "segments", where)):
        at = f"{where}, segment {place}"
        calls = [_record(RecordedCall, call, at) for call in _list(one, "calls", at)]
        segments.append(_record(RecordedSegment, {**one, "calls": calls}, at))
    leaves = []
    for place, one in enumerate(_list(values, "leaves", where)):
        at = f"{where}, leaf {place}"
        made = {
            "decisions": [_record(Decision, decision, at) for decision in _list(one, "decisions", at)],
            "refusals": [_record(Refusal, refusal, at) for refusal in _list(one, "refusals", at)],
        }
        leaf = _record(RecordedLeaf, {**one, **made}, at)
        if not all(isinstance(number, int) and 0 <= number < len(segments) for number in leaf.segments):
            raise ValueError(f"{at}: segments={leaf.segments}; expected places below {len(segments)}: was it changed?")
        leaves.append(leaf)
    return _record(RecordedPrompt, {**values, "segments": segments, "leaves": leaves}, where)


def parsed(line: bytes, where: str) -> dict[str, Any]:
    """Return the JSON object of a line.

    Raises:
        ValueError: it is none.
    """
    try:
        values = json.loads(line.decode(errors="surrogatepass"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where} is not JSON: {error}; expected a line of a rollout's record: remove it") from error
    if not isinstance(values, dict):
        raise ValueError(f"{where} is {type(values).__name__}; expected a JSON object: is it a rollout's record?")
    return values


def _header(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    if values.get("format") != FORMAT:
        raise ValueError(
            f"{path}, line 1 has format={values.get('format')!r:.80}; expected {FORMAT!r}, or rows of verl's: give it "
            f"files of trainer.rollout_data_dir"
        )
    if values.get("version") != VERSION:
        raise ValueError(
            f"{path} is of version {values.get('version')!r} of the record; expected {VERSION}: read it with the "
            f"arpo-verl that wrote it"
        )
    names = {"step", "began", "seconds", "alarms", "size"}
    if not isinstance(values.get("step"), int) or not isinstance(values.get("size"), int):
        raise ValueError(f"{path}, line 1 lacks step or size; expected whole numbers: was it changed by hand?")
    return {name: values[name] for name in names & values.keys()}


def _list(values: Any, key: str, where: str) -> list[Any]:
    found = values.get(key, []) if isinstance(values, Mapping) else None
    if not isinstance(found, list):
        raise ValueError(f"{where}: {key} is not a list; expected one: was the file changed by hand?")
    return found


def _record(kind: type[Record], values: Any, where: str) -> Record:
    known = {one.name for one in fields(kind)}
    found = dict(values) if isinstance(values, Mapping) else {}
    try:
        return kind(**{name: value if name == "truth" else _tuples(value) for name, value in found.items()})
    except TypeError as error:
        raise ValueError(
            f"{where} is not a {kind.__name__}: {error}; expected some of {sorted(known)}: was the file made by "
            f"another version?"
        ) from error


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list) else value
