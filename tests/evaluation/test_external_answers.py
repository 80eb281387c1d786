"""Answers that another program generated: found in their benchmark; what is missing, double or unknown is named."""

import json
from pathlib import Path
from typing import Any

import pytest
from dataset_files import write

from arpo_verl.command_line import main
from arpo_verl.evaluation.prediction import prediction_of
from arpo_verl.evaluation.records import read_run
from arpo_verl.evaluation.score.external_answers import read_external_answers
from arpo_verl.evaluation.score.scored_file import score_file


def run(*argv: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["eval", *map(str, argv)])
    return int(stop.value.code or 0)


@pytest.fixture
def benchmark(tmp_path) -> Path:
    """Four converted prompts: two of mathematics in one file with two questions."""
    rows = [
        {"question": f"Which  {name}?", "answer": name, "ability": "qa", "id": f"q{number}", "data_source": "mine"}
        for number, name in enumerate(["Paris", "Rome"])
    ]
    rows += [
        {"question": f"{number}+1?", "answer": number + 1, "ability": "math", "id": f"m{number}", "data_source": "sums"}
        for number in range(2)
    ]
    write(tmp_path / "rows.jsonl", rows)
    out = tmp_path / "benchmark.parquet"
    with pytest.raises(SystemExit) as stop:
        main(["data", "convert", "custom", "--from", str(tmp_path / "rows.jsonl"), "--out", str(out)])
    assert not stop.value.code
    return out


def answers(folder: Path, *lines: dict[str, Any], name: str = "other.jsonl") -> Path:
    return write(folder / name, list(lines))


ALL = [
    {"id": "q0", "answer": "Paris"},
    {"id": "q1", "answer": "Milan"},
    {"id": "m0", "answer": 1},
    {"id": "m1", "answer": "2"},
]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_answers_of_another_program_are_scored(benchmark, tmp_path, capsys, suffix):
    lines = [{**line, "answer": str(line["answer"])} for line in ALL]
    assert run("score", answers(tmp_path, *lines, name=f"other{suffix}"), "--data", benchmark) == 0
    report = capsys.readouterr().out
    assert "# other\n\nn 1; answers of another program." in report
    assert "| mine        | F1          |       2 |       0 | **50.0 ± 50.0** |" in report
    assert "| sums        | math-verify |       2 |       0 | **100.0 ± 0.0** |" in report
    assert "0 of 4 are not in its file" in report
    assert "What the samples are like" not in report


@pytest.mark.parametrize(
    "name",
    [
        {"id": "q0"}, {"id": "mine/q0"}, {"id": "mine/mine/q0"}, {"id": 0}, {"id": "0"}, {"id": 0.0},
        {"question": "Which  Paris?"}, {"question": "which paris?"}, {"id": None, "question": "Which Paris?"},
        {"id": "their-17", "question": "Which Paris?"},
    ],
)  # fmt: skip
def test_a_prompt_is_found_by_its_id_or_its_question(benchmark, tmp_path, name):
    lines = read_external_answers(answers(tmp_path, {**name, "answer": "Paris"}), [benchmark]).samples
    assert [sample.error is None for sample in lines] == [True, False, False, False]


@pytest.mark.parametrize(
    ("line", "prediction"),
    [
        ({"answer": "Paris"}, "Paris"),
        ({"answer": 34}, "34"),
        ({"answer": 34.0}, "34"),
        ({"answer": 1e-5}, "0.00001"),
        ({"answer": "\\boxed{34}"}, "34"),
        ({"answer": "{1,2"}, "{1,2"),
        ({"answer": None}, None),
        ({"answer": " "}, None),
        ({"output": ""}, None),
        ({"output": "6*7, so \\boxed{42}."}, "42"),
        ({"output": "<think>x</think><answer>\\boxed{42}</answer>"}, "42"),
        ({"output": "<answer>42</answer>"}, "42"),
        ({"output": "forty-two"}, "forty-two"),
    ],
)
def test_what_counts_is_the_answer_of_a_line(benchmark, tmp_path, line, prediction):
    sample = read_external_answers(answers(tmp_path, {"id": "q0", **line}), [benchmark]).samples[0]
    assert prediction_of(sample.output) == prediction
    assert sample.error is None


def test_several_answers_of_a_prompt_are_numbered(benchmark, tmp_path):
    lines = [{"id": "q0", "sample": number, "answer": text} for number, text in enumerate(["Paris", "Rome", "Paris"])]
    path = answers(tmp_path, *lines, {"id": "q1", "answer": "Rome", "sample": "1"})
    read = read_external_answers(path, [benchmark])
    assert (read.header.n, read.header.prompts, len(read.samples)) == (3, 4, 12)
    scored = score_file(path, run=read).run
    by_id = {prompt.id: prompt.values["f1"] for prompt in scored.prompts if prompt.ability == "qa"}
    assert by_id == {"mine/mine/q0": [1.0, 0.0, 1.0], "mine/mine/q1": [1.0, 0.0, 0.0]}


def test_prompts_without_an_answer_are_named_and_count_as_wrong(benchmark, tmp_path, capsys):
    assert run("score", answers(tmp_path, ALL[0], ALL[2]), "--data", benchmark) == 0
    output = capsys.readouterr()
    assert "has no answer to 2 of 4 prompts, which count as wrong: mine/mine/q1, sums/sums/m1" in output.err
    assert "2 of 4 are not in its file and count as wrong" in output.out
    assert "| mine        | F1          |       2 |       1 | **50.0 ± 50.0** |" in output.out


BAD = {
    "an unknown id": ({"id": "q7", "answer": "x"}, "1 lines name unknown prompts; expected the benchmark's, such as"),
    "an unknown question": ({"question": "Who?", "answer": "x"}, "line 5: question 'Who?'"),
    "a duplicate": (ALL[0], "1 duplicate answers; expected one a prompt"),
    "a duplicate by its question": ({"question": "Which Paris?", "answer": "x"}, "'mine/mine/q0', sample 0, is there"),
    "no prompt": ({"answer": "x"}, "lines name no prompt; expected `id` or `question` in each: add it:\n  line 5: got"),
    "no answer": ({"id": "q0"}, "got the keys id; expected `answer` with the final answer, or `output`"),
    "another key": ({"id": "q0", "prediction": "x"}, "got the keys id, prediction; expected `answer`"),
    "a list": ({"id": "q0", "answer": ["x"]}, "`answer` is ['x']; expected a text or a number"),
    "a mapping": ({"id": "q0", "output": {"text": "x"}}, "`output` is {'text': 'x'}; expected a text or a number"),
    "a boolean": ({"id": "q0", "answer": True}, "`answer` is True; expected a text or a number"),
    "NaN": ({"id": "q0", "answer": float("nan")}, "`answer` is nan; expected a text or a number"),
    "a negative sample": ({"id": "q0", "answer": "x", "sample": -1}, "`sample` is -1; expected a number from 0 to"),
    "a sample beyond all": ({"id": "q0", "answer": "x", "sample": 10**9}, "`sample` is 1000000000; expected a number"),
    "a sample in words": ({"id": "q0", "answer": "x", "sample": "two"}, "`sample` is 'two'; expected a number"),
    "an id that is a list": ({"id": [1], "answer": "x"}, "line 5: id [1]"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BAD)
def test_a_line_that_is_no_answer_is_named_and_nothing_is_scored(benchmark, tmp_path, capsys, fault):
    line, message = BAD[fault]
    assert run("score", answers(tmp_path, *ALL, line), "--data", benchmark) == 1
    output = capsys.readouterr()
    assert message in output.err and "other.jsonl can't be scored:" in output.err
    assert output.out == ""


def test_a_name_that_two_prompts_have_is_refused(tmp_path, capsys):
    row = {"prompt": [{"role": "user", "content": "Same?"}], "reward_model": {"ground_truth": "x"}}
    rows = [row | {"data_source": source, "extra_info": {"id": "7", "ability": "qa"}} for source in ("a", "b")]
    benchmark = write(tmp_path / "b.parquet", rows)
    assert run("score", answers(tmp_path, {"id": "7", "answer": "x"}), "--data", benchmark) == 1
    assert "lines name several prompts; expected one: use the whole id" in capsys.readouterr().err
    assert run("score", answers(tmp_path, {"id": "b/7", "answer": "x"}), "--data", benchmark) == 0
    assert run("score", answers(tmp_path, {"question": "Same?", "answer": "x"}), "--data", benchmark) == 1


def test_of_many_faults_the_first_are_shown_and_all_are_counted(benchmark, tmp_path, capsys):
    lines = [{"id": f"x{number}", "answer": "x"} for number in range(40)]
    assert run("score", answers(tmp_path, *lines), "--data", benchmark) == 1
    error = capsys.readouterr().err
    assert "40 lines name unknown prompts" in error and error.count("line ") == 5 and "... and 35 more" in error


def test_a_line_that_is_no_json_is_named(benchmark, tmp_path, capsys):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(ALL[0]) + "\n{\n[1]\n")
    assert run("score", path, "--data", benchmark) == 1
    error = capsys.readouterr().err
    assert "line 2: the line is not a JSON object" in error and "line 3: got a JSON list" in error


def test_an_empty_file_is_refused(benchmark, tmp_path, capsys):
    (tmp_path / "x.jsonl").write_text("")
    assert run("score", tmp_path / "x.jsonl", "--data", benchmark) == 1
    assert "has no answer; expected one a line, with `id` or `question`, and `answer`" in capsys.readouterr().err


def test_without_the_benchmark_it_is_asked_for(tmp_path, capsys):
    assert run("score", answers(tmp_path, *ALL)) == 1
    assert (
        "another program's answers with their benchmark (`arpo-verl eval score ANSWERS.jsonl --data"
        in capsys.readouterr().err
    )


def test_a_benchmark_that_no_run_could_use_is_refused(tmp_path, capsys):
    path = write(tmp_path / "b.jsonl", [{"question": "?", "answer": "x"}])
    assert run("score", answers(tmp_path, *ALL), "--data", path) == 1
    assert "b.jsonl, row 1: field 'prompt' is empty" in capsys.readouterr().err


def test_the_answers_become_a_run_that_is_scored_and_compared_as_any(benchmark, tmp_path, capsys):
    first, second = answers(tmp_path, *ALL), answers(tmp_path, *ALL[:3], name="second.jsonl")
    for path in (first, second):
        out = path.with_suffix(".run.jsonl")
        assert run("score", path, "--data", benchmark, "--out", out, "--by", "ability") == 0
        assert read_run(out).samples == read_external_answers(path, [benchmark]).samples
    report = capsys.readouterr().out
    assert "mine, ability qa" in report and "sums, ability math" in report
    assert run("score", first, "--data", benchmark, "--out", first.with_suffix(".run.jsonl")) == 1
    assert "exists: choose another name" in capsys.readouterr().err
    assert run("compare", first.with_suffix(".run.jsonl"), second.with_suffix(".run.jsonl")) == 0
