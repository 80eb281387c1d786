"""The file of an evaluation, read and written."""

from pathlib import Path

import pytest
from evaluation_records import HEADER, sample
from hypothesis import given
from hypothesis import strategies as st

from arpo_verl.evaluation.records import CallRecord, Run, line_of, read_run


def write(path: Path, *lines: bytes) -> Path:
    path.write_bytes(b"".join(lines))
    return path


def test_what_was_written_is_read(tmp_path):
    samples = [sample("a", 0), sample("a", 1, calls=[CallRecord("python", "ok", 0.25)], extra={"level": 3})]
    path = write(tmp_path / "run.jsonl", line_of(HEADER), *map(line_of, samples))
    assert read_run(path) == Run(HEADER, samples)
    assert HEADER.expected_samples == 6  # 3 prompts, 2 samples each


@given(st.text(alphabet=st.characters(), max_size=20))
def test_any_text_survives_the_file(tmp_path_factory, text):
    path = write(tmp_path_factory.mktemp("run") / "run.jsonl", line_of(HEADER), line_of(sample("a", 0, output=text)))
    assert read_run(path).samples[0].output == text


def test_a_torn_last_line_is_no_sample(tmp_path):
    whole = line_of(HEADER) + line_of(sample("a", 0))
    torn = line_of(sample("b", 0))
    for kept in (1, len(torn) // 2, len(torn) - 1):
        path = write(tmp_path / "run.jsonl", whole, torn[:kept])
        assert [one.id for one in read_run(path).samples] == ["a"]


HEAD = line_of(HEADER)
GOOD = line_of(sample("a", 0))


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        ([], "no whole line"),
        ([HEAD[:-1]], "no whole line"),
        ([GOOD], "line 1 is of the type 'sample'; expected 'run'"),
        ([HEAD, GOOD, GOOD], "line 3: sample 0 of 'a' is there already"),
        ([HEAD, b"{\n"], "line 2 is not JSON"),
        ([HEAD, b"[1]\n"], "line 2 is of the type None"),
        ([HEAD, b"\xff\n"], "line 2 is not JSON"),
        ([HEAD, GOOD.replace(b'"ability"', b'"skill"')], r"line 2 lacks \['ability'\] and has \['skill'\]"),
        ([HEAD, GOOD.replace(b'"calls": []', b'"calls": 3')], "line 2: calls=3; expected a list"),
    ],
)
def test_a_file_that_is_no_run_is_refused_with_the_line(tmp_path, lines, message):
    with pytest.raises(ValueError, match=message):
        read_run(write(tmp_path / "run.jsonl", *lines))
