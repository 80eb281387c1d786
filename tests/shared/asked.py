"""What presets ask a run for, with files and functions that there are."""

import json
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from arpo_verl.presets import Preset

TRACES, SHARED = "traces.parquet", "shared"
SUCCESS = 0.5
"""A reward that right answers have alone."""


def is_flawed(solution_str: str) -> bool:
    """Return whether a response's reasoning is flawed: where it calls no tool."""
    return "<result>" not in solution_str


def results_of_turns(leaf) -> list[float]:
    """Return a reward for each turn: whether its calls, if there are any, went well."""
    return [float(all(call.status == "ok" for call in turn.calls)) for turn in leaf.turns]


def given(preset: Preset, folder: Path) -> list[str]:
    """Return the overrides that a preset asks for, with files in a folder."""
    (folder / TRACES).touch()
    values = {"success": SUCCESS, "directory": folder / SHARED, "name": "alice", "stage_one_steps": 1}
    values |= {"flawed": "asked.is_flawed", "file": folder / TRACES}
    keys = [one.partition("=")[0] for one in preset.asks]
    return [f"{key}={values[key.rpartition('.')[2]]}" for key in keys]


def with_solutions(questions: Path, folder: Path) -> Path:
    """Write rows with gold solutions, and a teacher's traces of the same questions; return the file of the rows."""
    rows = pq.read_table(questions).to_pylist()
    with (folder / "traces.jsonl").open("w") as file:
        for row in rows:
            answer = row["reward_model"]["ground_truth"]
            row["extra_info"]["solution"] = f"The answer is {answer}."
            said = [("human", row["prompt"][0]["content"]), ("gpt", f"<answer>{answer}</answer>")]
            file.write(json.dumps({"conversations": [{"from": who, "value": text} for who, text in said]}) + "\n")
    pq.write_table(pa.Table.from_pylist(rows), folder / "questions.parquet")
    command = [sys.executable, "-c", "from arpo_verl.command_line import main; main()", "data", "traces"]
    subprocess.run([*command, folder / "traces.jsonl", "--out", folder / TRACES, "--overwrite"], check=True)
    return folder / "questions.parquet"
