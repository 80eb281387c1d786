"""The run's file under resumption, other processes, torn lines and a full disk."""

import errno
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from evaluation_records import HEADER, sample

from arpo_verl.evaluation.records import DataFile, line_of, read_run
from arpo_verl.evaluation.run.run_file import RunFileError, open_run_file

KEYS = [("a", 0), ("a", 1), ("b", 0), ("b", 1)]


def keys_of(path: Path) -> list[tuple[str, int]]:
    return [one.key for one in read_run(path).samples]


def test_a_file_is_gone_on_with_and_sorted_in_the_end(tmp_path):
    path = tmp_path / "run.jsonl"
    with open_run_file(path, HEADER, KEYS) as file:
        file.append(sample("b", 0))
        file.append(sample("a", 1))
    with open_run_file(path, HEADER, KEYS) as file:
        assert file.finished == {("b", 0), ("a", 1)}
        file.append(sample("b", 1))
        file.append(sample("a", 0))
        assert keys_of(path) == [("b", 0), ("a", 1), ("b", 1), ("a", 0)]
        file.sort(KEYS)
    assert keys_of(path) == KEYS
    assert [one.name for one in tmp_path.iterdir()] == ["run.jsonl"]


def test_a_sample_is_in_the_file_as_soon_as_it_is_appended(tmp_path):
    path = tmp_path / "run.jsonl"
    with open_run_file(path, HEADER, KEYS) as file:
        file.append(sample("a", 0))
        assert keys_of(path) == [("a", 0)]


def test_a_run_without_a_sample_leaves_no_file(tmp_path):
    path = tmp_path / "run.jsonl"
    with open_run_file(path, HEADER, KEYS):
        assert path.exists()
    assert not path.exists()


@pytest.mark.parametrize("kept", [1, 40, -1])
def test_a_torn_line_is_cut_off_before_the_next_one(tmp_path, kept):
    path = tmp_path / "run.jsonl"
    path.write_bytes(line_of(HEADER) + line_of(sample("a", 0)) + line_of(sample("a", 1))[:kept])
    with open_run_file(path, HEADER, KEYS) as file:
        assert file.finished == {("a", 0)}
        file.append(sample("a", 1))
    assert keys_of(path) == [("a", 0), ("a", 1)]


def test_a_torn_header_is_begun_again(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(line_of(HEADER)[:30])
    with open_run_file(path, HEADER, KEYS) as file:
        file.append(sample("a", 0))
    assert keys_of(path) == [("a", 0)]


@pytest.mark.parametrize("content", [b"thesis", b"important: 1\n", b'{"type": "sample"}\n', b'{"type": "run"}\n'])
def test_a_file_of_something_else_is_left_alone(tmp_path, content):
    path = tmp_path / "run.jsonl"
    path.write_bytes(content)
    with pytest.raises(RunFileError, match="choose another --out"), open_run_file(path, HEADER, KEYS):
        pass
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sampling": {**HEADER.sampling, "temperature": 0.6}}, r"sampling.temperature=0.0, and this command has 0.6"),
        ({"limits": {"max_tool_calls": 7}}, r"limits.max_tool_calls=6, and this command has 7"),
        ({"model": "other"}, "model='tiny', and this command has 'other'"),
        ({"data": [DataFile("elsewhere/validation.parquet", "ffff")]}, "data.1: validation.parquet .sha256.='34cd'"),
        ({"overrides": []}, r"overrides=\['arpo.max_tool_calls=6'\], and this command has \[\]"),
        ({"n": 3}, "n=2, and this command has 3"),
        ({"token_ids": "text"}, "token_ids='server'"),
    ],
)
def test_a_run_with_other_settings_is_refused_with_the_setting(tmp_path, changes, message):
    path = tmp_path / "run.jsonl"
    path.write_bytes(line_of(HEADER) + line_of(sample("a", 0)))
    with pytest.raises(RunFileError, match=message), open_run_file(path, replace(HEADER, **changes), KEYS):
        pass
    assert keys_of(path) == [("a", 0)]


def test_a_server_at_another_address_and_data_in_another_folder_are_the_same_run(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(line_of(HEADER) + line_of(sample("a", 0)))
    moved = replace(HEADER, base_url="http://other:1", data=[DataFile("elsewhere/validation.parquet", "34cd")])
    with open_run_file(path, moved, KEYS) as file:
        assert file.finished == {("a", 0)}
    assert read_run(path).header == HEADER


def test_a_sample_that_is_not_in_the_data_is_refused(tmp_path):
    path = tmp_path / "run.jsonl"
    path.write_bytes(line_of(HEADER) + line_of(sample("c", 0)))
    with pytest.raises(RunFileError, match=r"sample \('c', 0\), which is not in the data"):  # noqa: SIM117
        with open_run_file(path, HEADER, KEYS):
            pass


HOLD = """
import sys
from pathlib import Path
from evaluation_records import HEADER
from arpo_verl.evaluation.run.run_file import open_run_file
with open_run_file(Path(sys.argv[1]), HEADER, []):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_two_processes_never_write_to_one_file(tmp_path):
    path = tmp_path / "run.jsonl"
    command = [sys.executable, "-c", HOLD, str(path)]
    paths = {"PYTHONPATH": str(Path(__file__).parents[1] / "shared")}
    holder = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | paths, text=True
    )  # fmt: skip
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunFileError, match="being written to by another"), open_run_file(path, HEADER, KEYS):
            pass
    finally:
        holder.kill()
        holder.wait()
        holder.stdin.close()
        holder.stdout.close()
    with open_run_file(path, HEADER, KEYS) as file:  # the lock has gone with its holder
        file.append(sample("a", 0))


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "run.jsonl"
    write, room = os.write, [10, 0]

    def short(descriptor: int, content: bytes) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(descriptor, content[: room.pop(0)])

    with open_run_file(path, HEADER, KEYS) as file:
        file.append(sample("a", 0))
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", short)
            with pytest.raises(RunFileError, match="No space left on device; expected room on its disk"):
                file.append(sample("a", 1))
        assert path.read_bytes() == line_of(HEADER) + line_of(sample("a", 0))
        assert file.finished == {("a", 0)}
        file.append(sample("a", 1))
    assert keys_of(path) == [("a", 0), ("a", 1)]
