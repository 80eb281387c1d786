"""Reads verl's own rollout file (0.9.1, `trainer_base.py`, `_write_generations`): a row for each response, text alone.

That is what a run writes whose agent loop is not ours, and what this library wrote before the record had a format. Such
a leaf is one segment; what the row says of a tree is left out.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from arpo_verl.record.content import RecordedLeaf, RecordedPrompt, RecordedSegment, RecordedStep

_KEY = re.compile(r"(?P<prompt>.*)_(?P<session>\d+)_\d+")
_NO_PARTS = {"input", "output", "gts", "score", "step", "uid", "reward_parts"}


def is_verl_row(values: Mapping[str, Any]) -> bool:
    """Whether a line is a row of verl's."""
    return {"input", "output", "score", "step"} <= values.keys()


def step_of_verl_rows(rows: Sequence[Mapping[str, Any]], path: Path) -> RecordedStep:
    """Return the rows of a file as a step.

    Raises:
        ValueError: one is not a row of verl's, or they are of several steps.
    """
    prompts: dict[str, list[tuple[RecordedLeaf, Mapping[str, Any]]]] = {}
    for number, row in enumerate(rows, 1):
        if not is_verl_row(row):
            raise ValueError(f"{path}, line {number} has no input and output; expected a row of verl's: remove it")
        if row["step"] != rows[0]["step"]:
            raise ValueError(
                f"{path}, line {number} is of step {row['step']} and line 1 of step {rows[0]['step']}; expected one "
                f"step: split the file"
            )
        key = str(row.get("uid", f"{row['input']}_{number}_0"))
        found = _KEY.fullmatch(key)
        of_prompt = prompts.setdefault(found["prompt"] if found else key, [])
        of_prompt.append((_leaf(row, key, len(of_prompt)), row))
    notes = [f"{path} has verl's own rows: texts and rewards alone, without trees, calls and times"]
    return RecordedStep(
        step=int(rows[0]["step"]),
        size=len(prompts),
        prompts=[_prompt(uid, leaves) for uid, leaves in prompts.items()],
        problems=notes,
    )


def _leaf(row: Mapping[str, Any], key: str, place: int) -> RecordedLeaf:
    parts = {name: value for name, value in row.items() if name not in _NO_PARTS and not name.startswith("arpo_")}
    score = row["score"]
    is_number = isinstance(score, (int, float)) and score == score
    return RecordedLeaf(
        key=key,
        number=place,
        segments=(place,),
        reward=float(score) if is_number else None,
        parts={**parts, **(row.get("reward_parts") or {})},
        stop_reason=str(row.get("arpo_stop_reason", "")),
    )


def _prompt(uid: str, leaves: Sequence[tuple[RecordedLeaf, Mapping[str, Any]]]) -> RecordedPrompt:
    rows = [row for _, row in leaves]
    return RecordedPrompt(
        uid=uid,
        text=str(rows[0]["input"]),
        segments=[RecordedSegment(str(row["output"]), tokens=0) for row in rows],
        leaves=[leaf for leaf, _ in leaves],
        truth=rows[0].get("gts"),
    )
