"""Converters: every dataset's rows in the one schema, and no row lost without a word."""

import json
import os
from pathlib import Path

import datasets
import pyarrow.parquet as pq
import pytest
from dataset_files import CASES, RELEASED_PROMPT, Case, gaia_row, read, released_row, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arpo_verl.command_line import main
from arpo_verl.data.catalog import DATASETS
from arpo_verl.data.prompts import tag_prompt
from arpo_verl.data.schema import SCHEMA
from arpo_verl.reward import compute_score
from arpo_verl.reward.response_format import format_defect

PUBLIC = Path(os.environ.get("ARPO_TEST_DATA", "."))
"""Real files: train_10k.parquet and hard_search_1k.parquet of the release, and its evaluation/*.jsonl."""


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["data", *map(str, words)])
    return int(stop.value.code)


def converted(case: Case, folder: Path, *more: str) -> Path:
    source = write(folder / f"{case.name}{case.suffix}", case.rows)
    out = folder / f"{case.name}.out.parquet"
    assert run("convert", case.name, "--from", source, "--out", out, *case.arguments, *more) == 0
    return out


def test_every_dataset_has_a_file_here():
    assert {case.name for case in CASES} == set(DATASETS)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_dataset_becomes_rows_of_the_one_schema(case, tmp_path):
    out = converted(case, tmp_path)
    assert pq.read_schema(out).equals(SCHEMA)
    rows = read(out)
    assert [row["extra_info"]["question"] for row in rows] == case.questions
    assert [row["prompt"][-1] for row in rows] == [{"role": "user", "content": text} for text in case.questions]
    assert [row["reward_model"] for row in rows] == [{"style": "rule", "ground_truth": texts} for texts in case.answers]
    assert [row["extra_info"]["level"] for row in rows] == case.levels
    assert {row["data_source"] for row in rows} == (case.data_sources or {case.name})
    assert all(row["ability"] == row["extra_info"]["ability"] in ("math", "qa") for row in rows)
    assert all(row["extra_info"]["id"].startswith(f"{row['data_source']}/") for row in rows)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_row_is_written_or_counted(case, tmp_path, capsys):
    rows = read(converted(case, tmp_path))
    lines = [line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines()]
    excluded = sum(int(count) for count, text in lines if text.startswith("excluded"))
    assert lines[0][0] == str(len(case.rows))
    assert excluded == case.excluded
    assert len(rows) == len(case.rows) - case.excluded


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_validation_passes_on_what_a_converter_wrote(case, tmp_path, capsys):
    assert run("validate", converted(case, tmp_path), "--tools", "python,search") == 0
    assert " 0 errors" in capsys.readouterr().out


def test_the_files_of_all_datasets_concatenate(tmp_path):
    paths = [converted(case, tmp_path) for case in CASES]
    parts = [
        datasets.load_dataset("parquet", data_files=str(path), cache_dir=str(tmp_path / "cache"))["train"]
        for path in paths
    ]
    assert len(datasets.concatenate_datasets(parts)) == sum(len(case.rows) - case.excluded for case in CASES)
    assert run("validate", *paths) == 0


TEXTS = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=0, max_size=12)
VALUES = st.one_of(st.none(), st.booleans(), TEXTS, st.integers(), st.floats(), st.lists(TEXTS, max_size=3))
ROWS = st.lists(st.fixed_dictionaries({}, optional={"question": VALUES, "answer": VALUES, "image": VALUES}), max_size=8)


@settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(rows=ROWS)
def test_rows_read_are_rows_written_excluded_or_bad(rows, tmp_path, capsys):
    source = write(tmp_path / "any.jsonl", rows)
    out = tmp_path / "out.parquet"
    out.unlink(missing_ok=True)
    code = run("convert", "hle", "--from", source, "--out", out, "--skip-bad-rows")
    output = capsys.readouterr()
    if code:  # no row is left
        assert f"no row is left of {len(rows)}" in output.err
        assert not out.exists()
        return
    lines = [line.split(maxsplit=1) for line in output.out.splitlines() if line[:7].strip().isdigit()]
    left_out = sum(int(count) for count, text in lines if text.startswith(("excluded", "bad")))
    assert len(read(out)) == len(rows) - left_out
    assert run("validate", out) == 0


def test_a_bad_row_is_named_and_nothing_is_written(tmp_path, capsys):
    rows = [{"question": f"{number}?", "answer": str(number)} for number in range(30)]
    rows[16]["answer"] = " "
    del rows[20]["answer"]
    source, out = write(tmp_path / "train.jsonl", rows), tmp_path / "folder" / "out.parquet"
    assert run("convert", "hotpotqa", "--from", source, "--out", out) == 1
    error = capsys.readouterr().err
    assert "2 of 30 rows are bad, nothing was written" in error
    assert "train.jsonl, row 17: field 'answer' is empty; expected text, a number or a list of them" in error
    assert "train.jsonl, row 21: field 'answer' or 'answers'" in error and "is missing; got question" in error
    assert list(out.parent.iterdir()) == []


def test_of_many_bad_rows_the_first_are_shown_and_all_are_counted(tmp_path, capsys):
    source = write(tmp_path / "x.jsonl", [{"question": "?", "answer": None}] * 25)
    assert run("convert", "simpleqa", "--from", source, "--out", tmp_path / "o.parquet") == 1
    error = capsys.readouterr().err
    assert error.count("x.jsonl, row") == 10
    assert "... and 15 more" in error


def test_bad_rows_are_left_out_with_their_reasons_when_asked(tmp_path, capsys):
    lines = ['{"question": "a", "answer": "1"}', "{", "[]", '{"question": "b", "answer": {"x": 1}}', '{"answer": "1"}']
    lines += ['{"question": "\\ud800", "answer": "1"}', '{"question": "c", "answer": NaN}', "", "\xff"]
    source, out = tmp_path / "x.jsonl", tmp_path / "o.parquet"
    source.write_bytes("\n".join(lines).encode("latin-1"))
    assert run("convert", "simpleqa", "--from", source, "--out", out, "--skip-bad-rows") == 0
    output = capsys.readouterr().out
    assert [row["extra_info"]["question"] for row in read(out)] == ["a"]
    assert "8 rows read" in output and "1 written" in output
    assert output.count("1 bad, left out: ") == 7
    assert "x.jsonl, row 9: the line is not a JSON object" in output
    for reason in (
        "field 'answer' is a dict",
        "field 'answer' is nan, which is not a",
        "half of a surrogate",
        "got a JSON list",
    ):
        assert reason in output


def test_a_benchmark_without_answers_is_an_error(tmp_path, capsys):
    source = write(tmp_path / "gaia.jsonl", [gaia_row("How many?", "?", 1), gaia_row("Who?", "?", 2)])
    assert run("convert", "gaia", "--from", source, "--out", tmp_path / "o.parquet") == 1
    error = capsys.readouterr().err
    assert "no row is left of 2" in error and "2 excluded: its answer is not public" in error
    assert not (tmp_path / "o.parquet").exists()


def test_only_what_is_marked_is_excluded(tmp_path):
    rows = [{"question": "a", "answer": "1"}, {"question": "b", "answer": "2", "answerable": None}]
    source, out = write(tmp_path / "m.jsonl", rows), tmp_path / "musique.parquet"
    assert run("convert", "musique", "--from", source, "--out", out) == 0
    assert len(read(out)) == 2
    source, out = write(tmp_path / "g.jsonl", [gaia_row("How many?", 3, 1, None)]), tmp_path / "gaia.parquet"
    assert run("convert", "gaia", "--from", source, "--out", out) == 0
    assert read(out)[0]["reward_model"]["ground_truth"] == ["3"]


@pytest.mark.parametrize("answer", ["The robe takes 3 bolts.", "3 bolts", "so\n####  "])
def test_a_gsm8k_answer_without_its_number_is_bad(answer, tmp_path, capsys):
    source = write(tmp_path / "g.jsonl", [{"question": "?", "answer": answer}])
    assert run("convert", "gsm8k", "--from", source, "--out", tmp_path / "o.parquet") == 1
    assert "'####'" in capsys.readouterr().err


def test_a_plain_number_is_a_gsm8k_answer(tmp_path):
    source = write(tmp_path / "g.jsonl", [{"question": "?", "answer": "1,234"}, {"question": "!", "answer": 5}])
    assert run("convert", "gsm8k", "--from", source, "--out", tmp_path / "o.parquet") == 0
    assert [row["reward_model"]["ground_truth"] for row in read(tmp_path / "o.parquet")] == [["1234"], ["5"]]


def test_a_released_row_keeps_its_own_prompt_unless_another_is_asked_for(tmp_path):
    source = write(tmp_path / "r.parquet", [released_row("DR_nan", "Who?", "A")])
    written = tmp_path / "prompt.txt"
    written.write_text("Answer in <answer>.\n")
    expected = {"auto": RELEASED_PROMPT, "tags": tag_prompt(["search"]), str(written): "Answer in <answer>."}
    for number, (choice, text) in enumerate(expected.items()):
        out = tmp_path / f"{number}.parquet"
        words = ("convert", "arpo-deepsearch", "--from", source, "--out", out, "--tools", "search")
        assert run(*words, "--system-prompt", choice) == 0
        assert read(out)[0]["prompt"][0] == {"role": "system", "content": text}
        assert [message["role"] for message in read(out)[0]["prompt"]] == ["system", "user"]


def test_an_evaluation_can_have_the_prompt_of_the_training(tmp_path):
    training = write(tmp_path / "train.parquet", [released_row("DR_nan", "Who?", "A")])
    source, out = write(tmp_path / "g.jsonl", [{"question": "1+1?", "answer": "#### 2"}]), tmp_path / "o.parquet"
    assert run("convert", "gsm8k", "--from", source, "--out", out, "--system-prompt", training) == 0
    assert read(out)[0]["prompt"][0]["content"] == RELEASED_PROMPT


def test_without_a_system_prompt_the_question_stands_alone(tmp_path):
    source, out = write(tmp_path / "r.parquet", [released_row("DR_nan", "Who?", "A")]), tmp_path / "o.parquet"
    assert run("convert", "arpo-deepsearch", "--from", source, "--out", out, "--system-prompt", "none") == 0
    assert read(out)[0]["prompt"] == [{"role": "user", "content": "Who?"}]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--system-prompt", "missing.txt"), "missing.txt"),
        (("--system-prompt", "{folder}/empty.txt"), "empty; expected a system prompt"),
        (("--system-prompt", "{folder}/user.parquet"), "row 1 has no system message"),
        (("--system-prompt", "{folder}/other.parquet"), "no column 'prompt'"),
        (("--tools", "python,email"), "tools email: expected some of python, search, browse"),
        (("--out", "{folder}/o.json"), "ends in .parquet"),
    ],
)
def test_what_can_not_be_done_is_said_at_once(words, message, tmp_path, capsys):
    source = write(tmp_path / "g.jsonl", [{"question": "?", "answer": "#### 2"}])
    (tmp_path / "empty.txt").write_text("\n")
    write(tmp_path / "user.parquet", [{"prompt": [{"role": "user", "content": "?"}]}])
    write(tmp_path / "other.parquet", [{"question": "?"}])
    words = [word.format(folder=tmp_path) for word in words]
    assert run("convert", "gsm8k", "--from", source, "--out", tmp_path / "o.parquet", *words) == 1
    assert message in capsys.readouterr().err


def test_nothing_is_overwritten_unless_asked(tmp_path, capsys):
    source, out = write(tmp_path / "g.jsonl", [{"question": "?", "answer": "#### 2"}]), tmp_path / "o.parquet"
    out.write_text("finished work")
    words = ("convert", "gsm8k", "--from", source, "--out", out)
    assert run(*words) == 1
    assert "exists: choose another name, or replace it with --overwrite" in capsys.readouterr().err
    assert out.read_text() == "finished work"
    assert run(*words, "--overwrite") == 0
    assert len(read(out)) == 1


def test_a_failed_conversion_leaves_the_file_that_was_there(tmp_path):
    source, out = write(tmp_path / "g.jsonl", [{"question": "?", "answer": "no"}]), tmp_path / "o.parquet"
    out.write_text("finished work")
    assert run("convert", "gsm8k", "--from", source, "--out", out, "--overwrite") == 1
    assert out.read_text() == "finished work"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["g.jsonl", "o.parquet"]


def test_a_limit_takes_the_first_rows(tmp_path):
    rows = [{"question": str(number), "answer": f"#### {number}"} for number in range(2500)]
    source, out = write(tmp_path / "g.jsonl", rows), tmp_path / "o.parquet"
    assert run("convert", "gsm8k", "--from", source, "--out", out, "--limit", 2001) == 0
    assert [row["extra_info"]["index"] for row in read(out)] == list(range(2001))


def test_converting_a_converted_file_changes_nothing(tmp_path):
    case = next(case for case in CASES if case.name == "hotpotqa")
    first, second = converted(case, tmp_path), tmp_path / "second.parquet"
    assert run("convert", "hotpotqa", "--from", first, "--out", second) == 0
    assert read(first) == read(second)


def test_a_row_whose_ability_nobody_knows_is_bad(tmp_path, capsys):
    source = write(tmp_path / "c.jsonl", [{"question": "?", "answer": "2"}])
    assert run("convert", "custom", "--from", source, "--out", tmp_path / "o.parquet") == 1
    assert "field 'ability' is ''; expected math or qa: say which with --ability" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ([{"role": "narrator", "content": "x"}], "without a role; expected one of system"),
        ([{"role": "user", "content": " "}], "without content"),
        ([{"role": "system", "content": "x"}], "does not end with the user's message"),
    ],
)
def test_a_bad_prompt_of_a_released_row_is_named(prompt, message, tmp_path, capsys):
    source = write(tmp_path / "r.parquet", [released_row("DR_nan", "Who?", "A", prompt=prompt)])
    assert run("convert", "arpo-deepsearch", "--from", source, "--out", tmp_path / "o.parquet") == 1
    error = capsys.readouterr().err
    assert "r.parquet, row 1: field 'prompt'" in error and message in error


@pytest.mark.parametrize("tools", [["python"], ["search"], ["python", "search"], ["python", "search", "browse"], []])
def test_a_response_that_does_as_the_prompt_says_is_rewarded(tools):
    prompt = tag_prompt(tools)
    assert all((f"<{tool}>" in prompt) == (tool in tools) for tool in ("python", "search", "browse"))
    start = prompt.index("<answer>")
    answer = prompt[start : prompt.index("</answer>") + len("</answer>")].replace("your answer", "4")
    calls = "".join(f"<think>I call it.</think><{tool}>x</{tool}> <result>\n4\n</result>" for tool in tools)
    assert format_defect(calls + answer) is None
    assert compute_score("custom", calls + answer, ["4"])["acc"] == 1


def test_the_list_names_every_dataset(capsys):
    assert run("list") == 0
    output = capsys.readouterr().out
    assert all(name in output for name in DATASETS)
    assert "openai/gsm8k:main" in output and "1319" in output


def test_a_sample_shows_rows_as_text(tmp_path, capsys):
    source, out = write(tmp_path / "g.jsonl", [{"question": "1+1?", "answer": "#### 2"}]), tmp_path / "o.parquet"
    assert run("convert", "gsm8k", "--from", source, "--out", out) == 0
    capsys.readouterr()
    assert run("sample", out, "--rows", 5) == 0
    output = capsys.readouterr().out
    assert "row 1" in output and "[user] 1+1?" in output
    assert json.loads(output[output.index("\n{") :])["reward_model"]["ground_truth"] == ["2"]


REAL = [
    ("arpo-reasoning", "train_10k.parquet", 10_000, {"DR_grpo_mix": 9_999}),
    ("arpo-deepsearch", "hard_search_1k.parquet", 1_071, {"DR_simpledeepsearch0.8k": 871, "DR_nan": 200}),
    ("aime24", "evaluation/aime24.jsonl", 30, {"aime24": 30}),
    ("gsm8k", "evaluation/gsm8k.jsonl", 1_319, {"gsm8k": 1_319}),
    ("hotpotqa", "evaluation/hotpotqa.jsonl", 200, {"hotpotqa": 200}),
]


@pytest.mark.parametrize(("name", "file", "rows", "written"), REAL, ids=[case[0] for case in REAL])
def test_a_real_file_is_converted(name, file, rows, written, tmp_path, capsys):
    source = PUBLIC / file
    if not source.is_file():
        pytest.skip(f"$ARPO_TEST_DATA has no {file}")
    out = tmp_path / "o.parquet"
    # One row of the release's 10 000 has a blank as its answer.
    assert run("convert", name, "--from", source, "--out", out, "--skip-bad-rows") == 0
    assert f"{rows} rows read" in capsys.readouterr().out
    sources = [row["data_source"] for row in read(out)]
    assert {source: sources.count(source) for source in set(sources)} == written
    assert run("validate", out) == 0
