"""What a run's file is worth: missing samples, judged and unjudged sources, the report as it is printed."""

import json
import math
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import pytest
from evaluated import call, failed, header, samples, write_judgements, write_run

from arpo_verl.evaluation.judge.judgements import judgement_path
from arpo_verl.evaluation.records import Run, SampleRecord
from arpo_verl.evaluation.score import command as score_command
from arpo_verl.evaluation.score.markdown import table
from arpo_verl.evaluation.score.scored_file import score_file
from arpo_verl.evaluation.score.scoring import ScoredPrompt, Scorers, score_run
from arpo_verl.evaluation.score.summary import Summary, summarize
from arpo_verl.reward.math_check import MathCheckResult
from arpo_verl.reward.score import compute_score


def reward(sample: SampleRecord) -> dict[str, object]:
    return dict(compute_score(sample.data_source, sample.output, sample.truths, sample.extra))


def same_text(prediction: str, truths: tuple[str, ...]) -> MathCheckResult:
    special = {"BOMB": MathCheckResult.TIMEOUT, "LONG": MathCheckResult.TOO_LONG, "DEAD": MathCheckResult.FAILED}
    return special.get(prediction, MathCheckResult.EQUAL if prediction in truths else MathCheckResult.DIFFERENT)


SCORERS = Scorers(same_text, reward)


def scored(records: list[SampleRecord], prompts: int, n: int, scorers: Scorers = SCORERS) -> list[ScoredPrompt]:
    return score_run(Run(header(prompts, n), records), scorers).prompts


def summaries(path: Path, by: str | None = None, **options: str) -> dict[str, Summary]:
    return {summary.label: summary for summary in summarize(score_file(path, **options).run, by)}


def command(*words: object) -> int:
    parser = ArgumentParser()
    score_command.add_arguments(parser)
    return score_command.run(parser.parse_args([str(word) for word in words]))


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "run.jsonl"


# ---- samples ----


def test_a_prompt_has_a_value_for_each_sample_and_measure():
    [prompt] = scored(samples("q", "Paris", "the Paris", "Paris France", None), prompts=1, n=4)
    # Of "Paris France" one word of two is right: 2·1/(2+1).
    assert prompt.values == {"f1": [1.0, 1.0, pytest.approx(2 / 3), 0.0], "exact_match": [1.0, 1.0, 0.0, 0.0]}
    assert prompt.rewards["score"] == [1.0, 1.0, pytest.approx(2 / 3), -1.0]
    assert prompt.rewards["format"] == [1.0, 1.0, 1.0, 0.0]
    assert "reason" not in prompt.rewards
    assert prompt.accuracy == "f1"


def test_samples_that_are_not_there_are_wrong_and_counted():
    records = samples("q", "Paris", "Paris")
    [prompt] = scored([records[0], failed(records[1])], prompts=1, n=4)
    assert prompt.values["f1"] == [1.0, 0.0, 0.0, 0.0]
    assert prompt.rewards["score"] == [1.0, -1.0, -1.0, -1.0]
    assert prompt.votes == ["Paris", None, None, None]
    assert (prompt.missing, prompt.errors, len(prompt.finished)) == (3, 1, 1)


def test_maths_that_could_not_be_compared_is_wrong_and_counted():
    records = samples("q", "BOMB", "LONG", "DEAD", "4", data_source="aime24", ability="math", truths=["4"])
    [prompt] = scored(records, prompts=1, n=4)
    assert prompt.values == {"math_verify": [0.0, 0.0, 0.0, 1.0]}
    assert (prompt.math_timeouts, prompt.math_failures) == (1, 2)


def test_a_sample_beyond_the_headers_number_is_an_error():
    with pytest.raises(ValueError, match=r"sample 1 of 'q'; the header expects 0 to 0"):
        scored(samples("q", "Paris", "Paris"), prompts=1, n=1)


def test_prompts_beyond_the_headers_number_are_an_error():
    with pytest.raises(ValueError, match="2 prompts; the header expects 1"):
        scored([*samples("q", "Paris"), *samples("r", "Paris")], prompts=1, n=1)


def test_an_unknown_measure_is_an_error():
    with pytest.raises(ValueError, match="measure 'accuracy'; expected one of math_verify"):
        scored(samples("q", "Paris"), 1, 1, replace(SCORERS, measure="accuracy"))


# ---- rows ----


def test_accuracies_and_errors_are_those_worked_out_by_hand(path):
    records = [*samples("a", "Paris", "Paris"), *samples("b", "Paris", "Rome"), *samples("c", "Rome", "Rome")]
    [summary] = summaries(write_run(path, header(3, 2), records)).values()
    f1 = summary.measures["f1"]
    assert list(f1) == ["avg@2", "pass@1", "pass@2", "maj@2"]
    # By prompt: avg 1, 1/2, 0; pass@2 1, 1, 0; maj@2 1, 1/2 (a tie), 0.
    assert (f1["avg@2"].mean, f1["pass@2"].mean, f1["maj@2"].mean) == (0.5, pytest.approx(2 / 3), 0.5)
    assert f1["avg@2"] == f1["pass@1"]
    assert f1["avg@2"].standard_error == pytest.approx(0.5 / math.sqrt(3))
    assert f1["pass@2"].standard_error == pytest.approx(math.sqrt(1 / 3) / math.sqrt(3))  # s² = 2/3·1/2 = 1/3


def test_prompts_that_were_not_begun_count_as_wrong_over_all(path):
    found = summaries(write_run(path, header(prompts=4, n=2), samples("a", "Paris", "Paris")))
    assert found["hotpotqa"].measures["f1"]["avg@2"].mean == 1.0
    everything = found["all"]
    assert everything.measures["f1"]["avg@2"].mean == 0.25
    assert everything.measures["f1"]["pass@2"].mean == 0.25
    assert (everything.prompts, everything.missing, everything.errors) == (4, 6, 0)
    assert everything.rewards["score"].mean == (1 - 1 - 1 - 1) / 4


def test_a_file_with_nothing_but_its_header_is_all_wrong(path):
    [summary] = summaries(write_run(path, header(3, 1), [])).values()
    assert (summary.label, summary.prompts, summary.missing) == ("all", 3, 3)
    assert summary.measures["accuracy"]["avg@1"].mean == 0.0
    assert summary.behaviour.tool_calls is None
    assert command(path) == 0


def test_over_all_each_prompt_weighs_the_same_by_its_own_accuracy(path):
    records = [
        *samples("a", "Paris France"),
        *samples("b", "7", data_source="gsm8k", ability="math", truths=["7"]),
        *samples("c", "8", data_source="gsm8k", ability="math", truths=["7"]),
    ]
    found = summaries(write_run(path, header(3, 1), records))
    assert list(found) == ["hotpotqa", "gsm8k", "all"]
    assert found["all"].measures["accuracy"]["avg@1"].mean == pytest.approx((2 / 3 + 1 + 0) / 3)


def test_a_source_of_maths_and_questions_has_a_row_for_each(path):
    records = [
        *samples("a", "Paris", data_source="mix"),
        *samples("b", "7", data_source="mix", ability="math", truths=["7"]),
    ]
    found = summaries(write_run(path, header(2, 1), records))
    assert {label: list(one.measures) for label, one in found.items()} == {
        "mix (qa)": ["f1", "exact_match"],
        "mix (math)": ["math_verify"],
        "all": ["accuracy"],
    }


def test_rows_can_be_split_by_a_field(path):
    records = [
        *samples("a", "Paris", extra={"level": "2"}),
        *samples("b", "Rome", extra={"level": "1"}),
        *samples("c", "Paris", extra={}),
        *samples("d", "Rome", data_source="2wiki"),
    ]
    found = summaries(write_run(path, header(4, 1), records), by="level")
    del found["all"]
    means = {label: one.measures["f1"]["avg@1"].mean for label, one in found.items()}
    assert means == {
        "hotpotqa": pytest.approx(2 / 3),
        "2wiki": 0.0,
        "hotpotqa, level 1": 0.0,
        "hotpotqa, level 2": 1.0,
        "hotpotqa, level unknown": 1.0,
    }


def test_a_field_that_no_prompt_has_is_an_error(path):
    write_run(path, header(1, 1), samples("a", "Paris", extra={"level": 1, "city": "x"}))
    with pytest.raises(
        ValueError, match="no prompt has 'grade' to split by; the file has ability, city, level: name one"
    ):
        summaries(path, by="grade")


@pytest.mark.parametrize("extra", [{}, {"level": ""}, {"level": None}, {"level": "", "question": "q"}])
def test_an_empty_level_is_none_and_the_ability_can_be_split_by_instead(path, extra):
    """The levels of converted rows of benchmarks without them are empty."""
    records = [*samples("a", "Paris", extra=extra | {"question": "x"}), *samples("b", "Rome", extra=extra)]
    write_run(path, header(2, 1), records)
    with pytest.raises(ValueError, match=r"no prompt has 'level' to split by; the file has ability: name one of them"):
        summaries(path, by="level")
    assert "hotpotqa, ability qa" in summaries(path, by="ability")
    assert command(path, "--by", "level") == 1


def test_behaviour_is_that_of_samples_with_a_response(path):
    one, two, three = samples("a", "Paris", None, "Rome")
    one = replace(one, calls=[call(), call("python", "timeout")], generated_tokens=30)
    two = replace(two, calls=[call("search", "empty")], stop_reason="length", generated_tokens=10)
    [summary] = summaries(write_run(path, header(1, 4), [one, two, failed(three)])).values()
    behaviour = summary.behaviour
    assert (behaviour.samples, behaviour.without_answer) == (2, 1)
    assert (behaviour.tool_calls.mean, behaviour.generated_tokens.mean) == (1.5, 20.0)
    assert behaviour.calls == {"python": {"timeout": 1}, "search": {"ok": 1, "empty": 1}}
    assert behaviour.stop_reasons == {"completed": 1, "length": 1}


def test_real_maths_is_compared_by_math_verify(path):
    records = samples("a", r"\sqrt{12}", r"2\sqrt{3}", "3.46", data_source="math500", ability="math")
    records = [replace(record, truths=[r"2\sqrt{3}"]) for record in records]
    [prompt] = score_file(write_run(path, header(1, 3), records)).run.prompts
    assert prompt.values == {"math_verify": [1.0, 1.0, 0.0]}


# ---- verdicts ----


def judged_run(path: Path, replies: list[str], judge: str = "m") -> Path:
    """A run of SimpleQA with three answers; the first ones have replies."""
    records = samples("a", "Paris", "City of Paris", None, data_source="simpleqa")
    records += samples("b", "Rome", None, None, data_source="simpleqa")
    write_run(path, header(2, 3), records)
    predictions = ["Paris", "City of Paris", "Rome"]
    lines = [(records[0], *pair) for pair in zip(predictions, replies, strict=False)]
    write_judgements(judgement_path(path), judge, lines)
    return path


def test_verdicts_are_the_accuracy_of_a_judged_benchmark(path, capsys):
    judged_run(path, ["correct: yes", "correct: yes", "I don't know"])
    [summary] = summaries(path).values()
    assert list(summary.measures) == ["judge", "exact_match", "f1"]
    assert summary.measures["judge"]["avg@3"].mean == pytest.approx((2 / 3 + 0) / 2)
    assert summary.invalid_verdicts == 1
    assert command(path) == 0
    assert "Judge: m, prompt 0000000000000000; 1 verdicts are invalid and count as wrong." in capsys.readouterr().out


def test_an_unfinished_judgement_is_no_accuracy_and_is_said(path, capsys):
    judged_run(path, ["correct: yes"])
    [summary] = summaries(path).values()
    assert list(summary.measures) == ["exact_match", "f1"]
    assert command(path) == 0
    report = capsys.readouterr().out
    assert "simpleqa: 2 of 3 answers are not judged" in report
    assert "simpleqa: usually measured by a judge; without one its accuracy here is the exact match" in report


def test_the_judge_has_to_be_named_where_two_have_judged(path):
    judged_run(path, ["correct: yes"] * 3)
    judged_run(path, ["correct: no"] * 3, judge="other")
    with pytest.raises(ValueError, match=r"verdicts of m, other; expected one judge: name it with --judge"):
        summaries(path)
    [summary] = summaries(path, judge_model="other").values()
    assert summary.measures["judge"]["avg@3"].mean == 0.0
    with pytest.raises(ValueError, match="no verdict of 'third'"):
        summaries(path, judge_model="third")


def test_the_measure_can_be_chosen_for_all(path):
    write_run(path, header(1, 1), samples("a", "Paris", data_source="simpleqa"))
    [summary] = summaries(path, measure="f1").values()
    assert next(iter(summary.measures)) == "f1"
    with pytest.raises(ValueError, match="not all of simpleqa is judged: run `arpo-verl eval judge`"):
        summaries(path, measure="judge")


# ---- the report ----

EXPECTED = r"""# tiny

n 2; temperature 0.6, top_p 0.95; max_tool_calls 3; tools: python, search.

## Accuracy

| data source | measure     | prompts | missing |           avg@2 |      pass@2 |       maj@2 |
| ----------- | ----------- | ------: | ------: | --------------: | ----------: | ----------: |
| hotpotqa    | F1          |       2 |       0 | **50.0 ± 50.0** | 50.0 ± 50.0 | 50.0 ± 50.0 |
| hotpotqa    | exact match |       2 |       0 |     50.0 ± 50.0 | 50.0 ± 50.0 | 50.0 ± 50.0 |
| gsm8k       | math-verify |       1 |       1 |        **50.0** |       100.0 |       100.0 |
| all         | accuracy    |       4 |       3 | **37.5 ± 23.9** | 50.0 ± 28.9 | 50.0 ± 28.9 |

* ± is one standard error, over prompts. pass@1 is avg@2.
* 3 of 8 samples have no response and count as wrong: 2 were not reached, which the same `arpo-verl eval run` makes up for, and 1 were refused by the server.
* 1 of 4 prompts have no line at all: they count as wrong over all, and are in no other row, since their data source is not known.

## Reward of the training
"""  # noqa: E501

EXPECTED_BEHAVIOUR = """\
## What the samples are like

| data source | samples | without answer |  tool calls | generated tokens | all tokens |   seconds |
| ----------- | ------: | -------------: | ----------: | ---------------: | ---------: | --------: |
| hotpotqa    |       4 |              1 | 0.50 ± 0.50 |           10 ± 0 |     15 ± 0 | 1.0 ± 0.0 |
| gsm8k       |       1 |              0 |        0.00 |               10 |         15 |       1.0 |
| all         |       5 |              1 | 0.33 ± 0.33 |           10 ± 0 |     15 ± 0 | 1.0 ± 0.0 |

| data source | tool   | calls |  ok |
| ----------- | ------ | ----: | --: |
| hotpotqa    | search |     2 |   2 |
| all         | search |     2 |   2 |

| data source | ended: completed |
| ----------- | ---------------: |
| hotpotqa    |                4 |
| gsm8k       |                1 |
| all         |                5 |
"""


def small_run(path: Path) -> Path:
    first, second = samples("c", "7", "8", data_source="gsm8k", ability="math", truths=["7"])
    records = [
        *(replace(record, calls=[call()]) for record in samples("a", "Paris", "Paris")),
        *samples("b", "Rome", None),
        first,
        failed(second),
    ]
    return write_run(path, header(prompts=4, n=2), records)


def test_the_report_is_printed_as_expected(path, capsys):
    assert command(small_run(path)) == 0
    report = capsys.readouterr().out
    assert report.startswith(EXPECTED)
    assert report.endswith(f"\n{EXPECTED_BEHAVIOUR}")
    # a: 1, 1; b: 0 for a wrong answer, -1 for none; c: 1, and -1 for the missing sample; the fourth prompt: -1, -1.
    for row in ("hotpotqa    |  0.250 ± 0.750", "gsm8k       |          0.000", "all         | -0.125 ± 0.427"):
        assert f"| {row} |" in report


def test_the_json_has_the_same_numbers_unrounded(path, tmp_path):
    target = tmp_path / "report.json"
    assert command(small_run(path), "--json", target) == 0
    report = json.loads(target.read_text())
    assert report["prompts_not_begun"] == 1
    assert report["run"]["sampling"]["temperature"] == 0.6
    assert report["judge"] is None
    rows = {row["label"]: row for row in report["rows"]}
    assert rows["gsm8k"]["measures"]["math_verify"]["avg@2"] == {"mean": 0.5, "standard_error": None, "prompts": 1}
    assert rows["all"]["measures"]["accuracy"]["avg@2"]["mean"] == 0.375
    assert rows["hotpotqa"]["behaviour"]["calls"] == {"search": {"ok": 2}}


def test_one_sample_a_prompt_has_one_column(path, capsys):
    command(write_run(path, header(1, 1), samples("a", "Paris")))
    assert "| data source | measure     | prompts | missing |     avg@1 |\n" in capsys.readouterr().out


def test_a_table_escapes_what_would_break_it():
    assert table(["a|b", "n"], [["x\ny", "1"]]) == "| a\\|b | n   |\n| ---- | --: |\n| x y  |   1 |".replace(
        "n   |", "  n |"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "No such file"),
        (b"", "no whole line"),
        (b'{"type": "run"', "no whole line"),
        (b"garbage\n", "line 1 is not JSON"),
        (b"\xff\xfe\n", "line 1 is not JSON"),
        (b'{"type": "sample"}\n', "line 1 is of the type 'sample'"),
    ],
)
def test_a_file_that_is_no_run_is_an_error(path, capsys, content, message):
    if content is not None:
        path.write_bytes(content)
    assert command(path) == 1
    assert message in capsys.readouterr().err


def test_a_torn_last_line_is_a_missing_sample(path):
    write_run(path, header(1, 2), samples("a", "Paris", "Paris"))
    path.write_bytes(path.read_bytes()[:-30])
    [summary] = summaries(path).values()
    assert summary.missing == 1
    assert summary.measures["f1"]["avg@2"].mean == 0.5


def test_a_garbage_line_is_named(path, capsys):
    write_run(path, header(1, 2), samples("a", "Paris", "Paris"))
    path.write_bytes(path.read_bytes() + b"{}\n")
    assert command(path) == 1
    assert f"error: {path}, line 4" in capsys.readouterr().err
