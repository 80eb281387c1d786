"""Two runs on the same prompts: differences, intervals and which prompts may be compared."""

import json
import math
from argparse import ArgumentParser
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from evaluated import failed, header, samples, write_judgements, write_run
from hypothesis import given
from hypothesis import strategies as st

from arpo_verl.evaluation.judge.judgements import judgement_path
from arpo_verl.evaluation.records import SampleRecord
from arpo_verl.evaluation.score import compare_command
from arpo_verl.evaluation.score.comparison import Difference, compare, paired, paired_bootstrap
from arpo_verl.evaluation.score.scored_file import score_file


def command(*words: object) -> int:
    parser = ArgumentParser()
    compare_command.add_arguments(parser)
    return compare_command.run(parser.parse_args([str(word) for word in words]))


def write(path: Path, *prompts: list[SampleRecord]) -> Path:
    n = max(map(len, prompts))
    return write_run(path, header(len(prompts), n), [sample for prompt in prompts for sample in prompt])


def differences(a: Path, b: Path, metric: str = "accuracy") -> list[Difference]:
    return compare(paired(score_file(a).run.prompts, score_file(b).run.prompts), metric, 1000, seed=0)


def test_a_run_against_itself_differs_by_nothing(tmp_path):
    a = write(tmp_path / "a.jsonl", samples("p", "Paris", "Rome"), samples("q", "Rome", "Rome"))
    [one] = differences(a, a)
    assert (one.a.mean, one.b.mean, one.difference.mean, one.difference.standard_error) == (0.25, 0.25, 0.0, 0.0)
    assert (one.interval.low, one.interval.high, one.interval.p) == (0.0, 0.0, 1.0)


def test_a_difference_and_its_error_are_those_worked_out_by_hand(tmp_path):
    right, wrong = ("Paris", "Paris"), ("Rome", "Rome")
    a = write(tmp_path / "a.jsonl", samples("p", *wrong), samples("q", *right), samples("r", *wrong))
    b = write(tmp_path / "b.jsonl", samples("r", "Paris", "Rome"), samples("p", *right), samples("q", *right))
    [one] = differences(a, b)
    # B - A by prompt: p 1, q 0, r 1/2. Mean 1/2, s² = (1/4 + 1/4)/2 = 1/4, so the error is 1/2/√3.
    assert (one.a.mean, one.b.mean, one.difference.mean) == (pytest.approx(1 / 3), pytest.approx(5 / 6), 0.5)
    assert one.difference.standard_error == pytest.approx(0.5 / math.sqrt(3))
    [back] = differences(b, a)
    assert back.difference.mean == -0.5
    assert (back.interval.low, back.interval.high) == (-one.interval.high, -one.interval.low)


def test_resamples_of_two_prompts_are_what_one_can_count():
    # Of the four equally likely resamples of (1, 0) one has mean 0, two have 1/2 and one has 1.
    interval = paired_bootstrap(np.array([1.0, 0.0]), resamples=40_000, seed=1)
    assert (interval.low, interval.high) == (0.0, 1.0)
    assert interval.p == pytest.approx(2 / 4, abs=0.02)


def test_an_interval_of_many_prompts_is_that_of_the_normal_distribution():
    values = np.random.default_rng(3).normal(0.1, 1.0, 2000)
    interval = paired_bootstrap(values, resamples=5000, seed=0)
    error = values.std(ddof=1) / math.sqrt(len(values))
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.1 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.1 * error)


def test_the_interval_depends_on_the_seed_alone():
    values = np.linspace(-1, 2, 50)
    assert paired_bootstrap(values, 1000, seed=5) == paired_bootstrap(values, 1000, seed=5)
    assert paired_bootstrap(values, 1000, seed=5) != paired_bootstrap(values, 1000, seed=6)


def test_more_draws_than_are_made_at_once_are_all_made(monkeypatch):
    values = np.linspace(-1, 2, 50)
    whole = paired_bootstrap(values, 1000, seed=5)
    monkeypatch.setattr("arpo_verl.evaluation.score.comparison._MOST_DRAWS", 777)
    assert paired_bootstrap(values, 1000, seed=5) == whole


def test_a_difference_that_no_resample_contradicts_has_the_smallest_p():
    assert paired_bootstrap(np.array([0.5, 1.0, 0.5]), 1999, seed=0).p == 0.001  # 2/2000


@given(st.lists(st.sampled_from([-1.0, -1 / 3, 0.0, 1 / 3, 1.0]), min_size=2, max_size=12))
def test_an_interval_lies_within_the_differences_and_p_is_a_share(values):
    interval = paired_bootstrap(np.array(values), 1000, seed=0)
    assert min(values) - 1e-9 <= interval.low <= interval.high <= max(values) + 1e-9
    assert 0 < interval.p <= 1


def test_one_prompt_has_no_interval(tmp_path, capsys):
    a, b = write(tmp_path / "a.jsonl", samples("p", "Rome")), write(tmp_path / "b.jsonl", samples("p", "Paris"))
    [one] = differences(a, b)
    assert (one.interval, one.difference.standard_error) == (None, None)
    assert command(a, b) == 0
    assert "|     0.0 |   100.0 | 100.0 |             - |   - |" in capsys.readouterr().out


def test_missing_samples_are_wrong_in_a_comparison_too(tmp_path):
    whole = samples("p", "Paris", "Paris")
    other = samples("q", "Paris", "Paris")
    a = write(tmp_path / "a.jsonl", whole, other)
    b = write_run(tmp_path / "b.jsonl", header(2, 2), [whole[0], other[0], failed(other[1])])
    [one] = differences(a, b)
    assert one.difference.mean == -0.5


def test_rows_go_by_data_source_with_each_its_accuracy(tmp_path):
    maths = {"data_source": "gsm8k", "ability": "math", "truths": ["7"]}
    a = write(tmp_path / "a.jsonl", samples("p", "Paris France"), samples("q", "7", **maths))
    b = write(tmp_path / "b.jsonl", samples("p", "Paris"), samples("q", "8", **maths))
    rows = [(one.label, one.measure, one.difference.mean) for one in differences(a, b)]
    assert rows == [
        ("hotpotqa", "f1", pytest.approx(1 / 3)),
        ("gsm8k", "math_verify", -1.0),
        ("all", "accuracy", pytest.approx(-1 / 3)),
    ]


def test_other_metrics_and_the_reward_can_be_compared(tmp_path):
    a = write(tmp_path / "a.jsonl", samples("p", "Paris France"), samples("q", None))
    b = write(tmp_path / "b.jsonl", samples("p", "Paris"), samples("q", "Paris"))
    assert differences(a, b, "exact_match")[0].difference.mean == 1.0
    assert differences(a, b, "score")[0].difference.mean == pytest.approx((1 / 3 + 2) / 2)
    with pytest.raises(ValueError, match="'p' has no 'bleu'; expected one of accuracy, score"):
        differences(a, b, "bleu")


def test_different_prompts_are_named_and_can_be_left_out(tmp_path, capsys):
    a = write(tmp_path / "a.jsonl", samples("p", "Paris"), samples("q", "Rome"), samples("r", "Rome"))
    b = write(tmp_path / "b.jsonl", samples("q", "Paris"), samples("r", "Rome"), samples("s", "Paris"))
    assert command(a, b) == 1
    message = capsys.readouterr().err
    assert "different prompts: 1 ('p') only in A, 1 ('s') only in B" in message
    assert "--common to compare the 2 that both have" in message
    assert command(a, b, "--common") == 0
    report = capsys.readouterr().out
    assert "|       2 |" in report and "A: 1 more prompts are not compared" in report


def test_runs_without_a_common_prompt_are_an_error(tmp_path, capsys):
    a, b = write(tmp_path / "a.jsonl", samples("p", "Rome")), write(tmp_path / "b.jsonl", samples("q", "Rome"))
    assert command(a, b, "--common") == 1
    assert "no prompt is in both" in capsys.readouterr().err


@pytest.mark.parametrize("change", [{"question": "Which town?"}, {"truths": ["Rome"]}])
def test_the_same_id_for_something_else_is_an_error(tmp_path, capsys, change):
    a = write(tmp_path / "a.jsonl", samples("p", "Rome"))
    b = write(tmp_path / "b.jsonl", samples("p", "Rome", **change))
    assert command(a, b) == 1
    assert "1 ('p') differ in question or answers" in capsys.readouterr().err


def test_verdicts_of_two_judges_are_not_compared(tmp_path, capsys):
    paths = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    prompt = samples("p", "Paris", data_source="simpleqa")
    for path, judge in zip(paths, ["m", "other"], strict=True):
        write(path, prompt)
        write_judgements(judgement_path(path), judge, [(prompt[0], "Paris", "correct: yes")])
    assert command(*paths) == 1
    assert "judge both by one" in capsys.readouterr().err
    assert command(*paths, "--metric", "exact_match") == 0


def test_a_source_judged_in_one_run_alone_is_compared_by_what_both_have(tmp_path):
    prompt = samples("p", "Paris", data_source="simpleqa")
    a, b = write(tmp_path / "a.jsonl", prompt), write(tmp_path / "b.jsonl", prompt)
    write_judgements(judgement_path(a), "m", [(prompt[0], "Paris", "correct: no")])
    [one] = differences(a, b)
    assert (one.measure, one.a.mean) == ("exact_match", 1.0)


def test_the_report_is_printed_as_expected(tmp_path, capsys):
    right, wrong = ("Paris", "Paris"), ("Rome", "Rome")
    a = write(tmp_path / "a.jsonl", samples("p", *wrong), samples("q", *wrong))
    b = write_run(
        tmp_path / "b.jsonl", replace(header(2, 2), model="better"), [*samples("p", *right), *samples("q", "Paris")]
    )
    target = tmp_path / "report.json"
    assert command(a, b, "--json", target) == 0
    assert capsys.readouterr().out == EXPECTED
    [row] = json.loads(target.read_text())["rows"]
    assert (row["difference"]["mean"], row["interval"]["low"]) == (0.75, 0.5)


EXPECTED = """\
* A: a.jsonl, tiny, 2 samples a prompt
* B: b.jsonl, better, 2 samples a prompt

| data source | measure | prompts |   A avg@2 |     B avg@2 |       B - A | 95 % interval |      p |
| ----------- | ------- | ------: | --------: | ----------: | ----------: | ------------: | -----: |
| hotpotqa    | F1      |       2 | 0.0 ± 0.0 | 75.0 ± 25.0 | 75.0 ± 25.0 | 50.0 to 100.0 | 0.0002 |

* ± is one standard error over prompts, that of B - A from the pairs.
* With fewer than 20 prompts the interval is too narrow and p too small.
* B: 1 samples of these prompts have no response and count as wrong.
"""


@pytest.mark.parametrize("words", [("--resamples", 10), ("--metric", "bleu"), ("--metric", "judge")])
def test_bad_settings_are_errors(tmp_path, capsys, words):
    a = write(tmp_path / "a.jsonl", samples("p", "Rome"))
    assert command(a, a, *words) == 1
    assert capsys.readouterr().err.startswith("error: ")


def test_a_file_that_is_no_run_is_named(tmp_path, capsys):
    a, b = write(tmp_path / "a.jsonl", samples("p", "Rome")), tmp_path / "b.jsonl"
    b.write_text("garbage\n")
    assert command(a, b) == 1
    assert f"{b}, line 1 is not JSON" in capsys.readouterr().err
