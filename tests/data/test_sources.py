"""Where rows come from: files of four formats, and the Hub with and without a network."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_files import read, write
from hub_server import NAME, ROWS, hub

from arpo_verl.data.fields import RowError
from arpo_verl.data.source import open_source

TABLE = [{"question": 'Say "a",\nb', "answer": "ä"}, {"question": "二", "answer": "2"}]


def rows_of(path: Path | str) -> list:
    return list(open_source(str(path), "test", None).rows())


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".json", ".csv"])
def test_a_file_of_each_format_has_the_same_rows(suffix, tmp_path):
    assert rows_of(write(tmp_path / f"x{suffix}", TABLE)) == [(1, TABLE[0]), (2, TABLE[1])]


def test_json_lines_under_the_name_of_json_are_read(tmp_path):
    path = tmp_path / "x.json"
    path.write_text("".join(json.dumps(row) + "\n" for row in TABLE))
    assert [row for _, row in rows_of(path)] == TABLE


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv"])
def test_a_byte_order_mark_is_no_part_of_the_first_name(suffix, tmp_path):
    path = write(tmp_path / f"x{suffix}", TABLE)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [row for _, row in rows_of(path)] == TABLE


def test_a_row_of_json_lines_is_its_line(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text('{"a": 1}\n\n  \n[1]\n{"a": 2}')
    [first, second, third] = rows_of(path)
    assert (first, third) == ((1, {"a": 1}), (5, {"a": 2}))
    assert second[0] == 4 and isinstance(second[1], RowError)


def test_a_long_field_of_a_csv_file_is_read(tmp_path):
    path = write(tmp_path / "x.csv", [{"question": "x" * 1_000_000, "answer": "1"}])
    assert len(rows_of(path)[0][1]["question"]) == 1_000_000


def test_a_parquet_is_read_piece_by_piece(tmp_path):
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"question": [str(number) for number in range(1000)]}), path)
    rows = open_source(str(path), "test", None).rows()
    assert next(rows) == (1, {"question": "0"})
    assert [number for number, _ in rows] == list(range(2, 1001))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("x.json", b"[1, 2", "is not valid JSON"),
        ("x.json", b"3", "has a JSON int; expected an array of objects"),
        ("x.json", b"[" * 100_000, "is not valid JSON"),
        ("x.json", b"", "is not valid JSON"),
        ("x.csv", b"question,answer\n\xff,1\n", "is not a readable CSV"),
        ("x.parquet", b"PAR1", "is not a readable parquet"),
        ("x.txt", b"hello", "got the suffix '.txt'; expected one of .parquet, .jsonl, .json, .csv"),
    ],
)
def test_a_file_that_is_not_what_its_name_says_is_an_error(name, content, message, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=message):
        rows_of(tmp_path / name)


@pytest.mark.parametrize("name", ["missing.jsonl", "folder/missing.parquet", "a/b/c", "gsm8k"])
def test_a_missing_file_is_said_to_be_missing(name):
    with pytest.raises(FileNotFoundError, match="no such file; expected a file"):
        open_source(name, "test", None)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="is a folder; expected one of the files in it"):
        open_source(str(tmp_path), "test", None)


def convert(folder: Path, name: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a process of its own: the Hub's client reads its environment once."""
    ours = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    code = "from arpo_verl.command_line import main; main()"
    command = [sys.executable, "-c", code, "data", "convert", "gsm8k", "--from", name, "--out", folder / "o.parquet"]
    environment = {**ours, "HF_HOME": str(folder / "home"), **variables}
    return subprocess.run([*command, *words], env=environment, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.mark.slow
def test_a_dataset_of_the_hub_is_converted_and_is_then_in_its_cache(tmp_path):
    with hub() as address:
        done = convert(tmp_path, f"{NAME}:main", HF_ENDPOINT=address)
    assert done.returncode == 0, done.stderr
    assert f"3 rows read from {NAME}[test]" in done.stdout
    rows = read(tmp_path / "o.parquet")
    assert [row["extra_info"]["question"] for row in rows] == [row["question"] for row in ROWS]
    assert [row["reward_model"]["ground_truth"] for row in rows] == [["1"], ["2"], ["3"]]
    again = convert(tmp_path, f"{NAME}:main", "--overwrite", HF_HUB_OFFLINE="1")
    assert again.returncode == 0, again.stderr
    assert read(tmp_path / "o.parquet") == rows


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "words", "message"),
    [
        ("owner/nothing", (), "owner/nothing is neither a file here nor a dataset on http://127.0.0.1"),
        (NAME, (), "configuration default, split test"),
        (f"{NAME}:third", (), "configuration third, split test"),
        (f"{NAME}:main", ("--split", "train"), "configuration main, split train"),
    ],
)
def test_what_the_hub_does_not_have_is_named(name, words, message, tmp_path):
    with hub() as address:
        done = convert(tmp_path, name, *words, HF_ENDPOINT=address)
    assert done.returncode == 1
    assert message in done.stderr and "give its path as --from" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "o.parquet").exists()


def test_without_a_network_the_error_comes_in_seconds(tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))  # it does not listen: connections are refused
        started = time.perf_counter()
        done = convert(tmp_path, "wrong/name", HF_ENDPOINT=f"http://127.0.0.1:{unused.getsockname()[1]}")
    assert time.perf_counter() - started < 20  # the client's own retries take 23 s, and the start of Python 2 s
    assert done.returncode == 1
    assert "wrong/name is not a file here, and http://127.0.0.1" in done.stderr
    assert "can't be reached" in done.stderr and "give its path as --from" in done.stderr


def test_offline_only_the_cache_is_searched(tmp_path):
    done = convert(tmp_path, "wrong/name", HF_HUB_OFFLINE="1")
    assert done.returncode == 1
    assert "HF_HUB_OFFLINE is set, so only the cache was searched" in done.stderr
    assert "give its path as --from" in done.stderr
