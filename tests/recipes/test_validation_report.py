"""`recipes/validation.py` on dumps written by hand."""

import json
import statistics
from importlib.util import module_from_spec, spec_from_file_location
from math import sqrt
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

SPEC = spec_from_file_location("validation", Path(__file__).parents[2] / "recipes" / "validation.py")
validation = module_from_spec(SPEC)
SPEC.loader.exec_module(validation)


def dump(path: Path, rows: list[tuple[str, float, float]]) -> Path:
    lines = [json.dumps({"input": prompt, "output": "", "score": score, "acc": acc}) for prompt, score, acc in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def test_gain_and_standard_error_are_those_of_the_prompts_means(tmp_path):
    # Prompt:  reward before, after, gain    accuracy before, after, gain
    # a        0.0            0.0    0.0     0.5              1.0    0.5
    # b        -0.5           0.0    0.5     0.0              0.5    0.5
    # c        0.0            1.0    1.0     0.0              0.5    0.5
    before = dump(
        tmp_path / "0.jsonl", [("a", -1, 0), ("a", 1, 1), ("b", -1, 0), ("b", 0, 0), ("c", 0, 0), ("c", 0, 0)]
    )
    after = dump(tmp_path / "9.jsonl", [("c", 1, 0), ("b", 0, 1), ("a", -1, 1), ("a", 1, 1), ("b", 0, 0), ("c", 1, 1)])
    report = validation.compare(before, after)
    assert report["before"] == pytest.approx({"reward": -1 / 6, "accuracy": 1 / 6, "prompts": 3, "samples": 6})
    assert report["after"] == pytest.approx({"reward": 1 / 3, "accuracy": 2 / 3, "prompts": 3, "samples": 6})
    # The gains 0, 0.5 and 1 have a standard deviation of sqrt((0.25 + 0 + 0.25) / 2) = 0.5.
    gain = {"reward": 0.5, "reward_standard_error": 0.5 / sqrt(3), "accuracy": 0.5, "accuracy_standard_error": 0.0}
    assert report["gain"] == pytest.approx(gain)


def test_prompts_weigh_the_same_however_many_samples_they_have(tmp_path):
    before = dump(tmp_path / "0.jsonl", [("a", 0, 0), ("b", 0, 0)])
    after = dump(tmp_path / "9.jsonl", [("a", 1, 1), ("b", 0, 0), ("b", 0, 0), ("b", 0, 0)])
    report = validation.compare(before, after)
    assert report["gain"]["reward"] == report["after"]["accuracy"] == 0.5
    # The gains 1 and 0 have a standard deviation of sqrt(0.25 + 0.25); divided by sqrt(2) it is 0.5.
    assert report["gain"]["reward_standard_error"] == pytest.approx(0.5)
    assert (report["before"]["samples"], report["after"]["samples"]) == (2, 4)


def test_a_dump_compared_with_itself_gains_nothing_for_certain(tmp_path):
    path = dump(tmp_path / "0.jsonl", [("a", 0.3, 0), ("b", 1.1, 1), ("b", -1, 0)])
    zero = {"reward": 0, "reward_standard_error": 0, "accuracy": 0, "accuracy_standard_error": 0}
    assert validation.compare(path, path)["gain"] == zero


@pytest.mark.parametrize("prompts", [["a"], ["a", "b", "c"], ["a", "c"], ["A", "b"]])
def test_different_prompts_are_refused_with_both_files(tmp_path, prompts):
    before = dump(tmp_path / "0.jsonl", [("a", 0, 0), ("b", 0, 0)])
    after = dump(tmp_path / "9.jsonl", [(prompt, 0, 0) for prompt in prompts])
    with pytest.raises(ValueError) as caught:
        validation.compare(before, after)
    assert str(caught.value) == f"{before} and {after} have different prompts; expected two validations of one run"


def test_a_single_prompt_is_refused_with_the_file(tmp_path):
    path = dump(tmp_path / "0.jsonl", [("a", 0, 0)])
    with pytest.raises(ValueError, match=r"0\.jsonl"):
        validation.compare(path, path)


@given(rows=st.lists(st.tuples(st.floats(-1, 1.1), st.floats(-1, 1.1)), min_size=2, max_size=20))
@settings(deadline=None)
def test_with_one_sample_a_prompt_it_is_the_paired_standard_error(tmp_path_factory, rows):
    folder = tmp_path_factory.mktemp("dumps")
    before = dump(folder / "0.jsonl", [(str(number), early, 0) for number, (early, _) in enumerate(rows)])
    after = dump(folder / "9.jsonl", [(str(number), late, 0) for number, (_, late) in enumerate(rows)])
    report = validation.compare(before, after)
    gains = [late - early for early, late in rows]
    assert report["gain"]["reward"] == pytest.approx(statistics.fmean(gains), abs=1e-12)
    assert report["gain"]["reward"] == pytest.approx(report["after"]["reward"] - report["before"]["reward"], abs=1e-12)
    error = statistics.stdev(gains) / sqrt(len(rows))
    assert report["gain"]["reward_standard_error"] == pytest.approx(error, abs=1e-12)
