"""The one form of accepted answers, whatever a dataset has them in, and what is no answer."""

import datetime
import json
from decimal import Decimal
from typing import Any

import datasets
import numpy
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arpo_verl.reward import compute_score
from arpo_verl.reward.accepted import AnswerError, accepted_answers, ground_truth_fault

FORMS: list[tuple[Any, list[str]]] = [
    ("34", ["34"]),
    (" 34\n", ["34"]),
    (34, ["34"]),
    (34.0, ["34"]),
    (-0.0, ["0"]),
    (2.5, ["2.5"]),
    (1e-5, ["0.00001"]),
    (-1.5e-7, ["-0.00000015"]),
    (6.02e23, ["602000000000000000000000"]),
    (1e300, ["1e+300"]),
    (1 / 3, ["0.3333333333333333"]),
    (1234567.875, ["1234567.875"]),
    (Decimal("2.50"), ["2.5"]),
    (Decimal("1E-5"), ["0.00001"]),
    (numpy.float32(0.1), ["0.1"]),
    (numpy.float16(0.1), ["0.1"]),
    (numpy.float64(1e-5), ["0.00001"]),
    (numpy.int64(5), ["5"]),
    (numpy.str_("Ulm"), ["Ulm"]),
    (numpy.array(5), ["5"]),
    (numpy.array([0.1, 1e-5], dtype="float32"), ["0.1", "0.00001"]),
    (numpy.array(["a", "b"]), ["a", "b"]),
    (numpy.array(["a", 2.0], dtype=object), ["a", "2"]),
    (pa.array([0.1], pa.float32())[0].as_py(), ["0.1"]),
    (pa.array([3.14, 1e-5], pa.float32()).to_pylist(), ["3.14", "0.00001"]),
    ([numpy.float32(0.1), "x"], ["0.1", "x"]),
    (("a", "b"), ["a", "b"]),
    (["a", "a"], ["a", "a"]),
    ([], []),
    (datetime.date(2020, 1, 2), ["2020-01-02"]),
    (datetime.datetime(2020, 1, 2), ["2020-01-02"]),
    ([datetime.datetime(2020, 1, 2, 10, 30)], ["2020-01-02 10:30:00"]),
    (numpy.datetime64("2020-01-02"), ["2020-01-02"]),
    ({"target": ["a", "b"]}, ["a", "b"]),
    ({"target": "a"}, ["a"]),
    ({"target": numpy.array(["a"])}, ["a"]),
    ({"target": '["a", "b"]'}, ["a", "b"]),
    ('{"target": ["a"]}', ["a"]),
    ("{'target': ['a']}", ["a"]),
    # Lists as text: of JSON, Python, NumPy.
    ('["34"]', ["34"]),
    ("['34', '35']", ["34", "35"]),
    ("['34' '35']", ["34", "35"]),
    ("('34', '35')", ["34", "35"]),
    ('[ "a",\n "b" , ]', ["a", "b"]),
    ('["it\'s", "b"]', ["it's", "b"]),
    ("['say \"x\"']", ['say "x"']),
    ("['it\\'s']", ["it's"]),
    ('["M\\u00fcnchen"]', ["München"]),
    ('["\\\\frac{1}{2}"]', ["\\frac{1}{2}"]),
    ('["\\frac{1}{2}", "\\theta"]', ["\\frac{1}{2}", "\\theta"]),
    ('["\\sqrt{2}"]', ["\\sqrt{2}"]),
    ("[34]", ["34"]),
    (['["34", "35"]'], ["34", "35"]),
    ('["34", 35]', ["34", "35"]),
    # Texts that look like lists and are none.
    ("[1, 2]", ["[1, 2]"]),
    ("[1,2)", ["[1,2)"]),
    ("(0, 1]", ["(0, 1]"]),
    ("[[1, 2], [3, 4]]", ["[[1, 2], [3, 4]]"]),
    ("[a, b]", ["[a, b]"]),
    ('["a"] and ["b"]', ['["a"] and ["b"]']),
    ('"34"', ['"34"']),
    ("{1, 2}", ["{1, 2}"]),
    ("\\{1,2\\}", ["\\{1,2\\}"]),
]


@pytest.mark.parametrize(("ground_truth", "answers"), FORMS, ids=lambda value: repr(value)[:40])
def test_accepted_answers_have_one_form(ground_truth, answers):
    assert accepted_answers(ground_truth) == answers
    assert accepted_answers(answers) == answers


@pytest.mark.parametrize(
    ("ground_truth", "answers"), [case for case in FORMS if case[1]], ids=lambda one: repr(one)[:40]
)
def test_a_response_with_an_accepted_answer_is_right(ground_truth, answers):
    response = f"<answer>\\boxed{{{answers[0]}}}</answer>"
    assert compute_score("nq", response, ground_truth)["acc"] == 1.0


@pytest.mark.parametrize(
    ("ground_truth", "fault"),
    [
        (None, "is null"),
        ([None], "has an answer that is null"),
        ('["a", null]', "has an answer that is null"),
        ("['a', None]", "has an answer that is null"),
        (float("nan"), "is nan, which is not a finite number"),
        (float("-inf"), "is -inf, which is not a finite number"),
        ({"answer": "5"}, "is a dict"),
        ({"target": None}, "has an answer that is null"),
        ([["5"]], "has an answer that is a list"),
        (b"5", "is a bytes"),
        (datetime.timedelta(1), "is a timedelta"),
        ({"a", "b"}, "is a set"),
        (3 + 4j, "is a complex"),
    ],
)
def test_what_is_no_answer_is_refused_with_what_was_expected(ground_truth, fault):
    with pytest.raises(AnswerError, match=f"ground truth .* {fault}; expected a text, a number or a list"):
        accepted_answers(ground_truth)
    assert ground_truth_fault(ground_truth) == fault


@pytest.mark.parametrize(
    ("ground_truth", "answers", "fault"),
    [
        ("", [], "is empty"),
        (" \n", [], "is empty"),
        ([], [], "has no answer"),
        ("[]", [], "has no answer"),
        ('{"target": []}', [], "has no answer"),
        (["a", " "], ["a"], "has an empty answer"),
        (True, ["True"], "is a boolean"),
        ([numpy.bool_(False)], ["False"], "is a boolean"),
    ],
)
def test_what_a_response_should_not_be_compared_with_is_a_fault_of_the_row_alone(ground_truth, answers, fault):
    assert accepted_answers(ground_truth) == answers
    assert str(ground_truth_fault(ground_truth)).startswith(fault)


def test_dates_in_json_are_still_answers_after_verls_reader(tmp_path):
    """datasets 4 makes a time of a column in which every text is a date."""
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps({"ground_truth": "1976-01-02"}) + "\n")
    [row] = datasets.load_dataset("json", data_files=str(path), cache_dir=str(tmp_path))["train"]
    assert accepted_answers(row["ground_truth"]) == ["1976-01-02"]


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_number_keeps_its_value(value):
    [text] = accepted_answers(value)
    assert float(text) == pytest.approx(value, rel=1e-7)


@given(st.floats(allow_nan=False, allow_infinity=False, width=32, min_value=-1e6, max_value=1e6))
def test_a_float32_has_the_same_form_from_numpy_and_from_a_file(value):
    assert float(accepted_answers(value)[0]) == pytest.approx(
        float(accepted_answers(numpy.float32(value))[0]), rel=1e-6
    )


@given(st.lists(st.text(max_size=12), min_size=1, max_size=4))
def test_a_list_of_texts_reads_the_same_from_its_json_and_its_python(texts):
    expected = [text.strip() for text in texts if text.strip()]
    is_clean = not any(character in text for text in texts for character in "\b\f\t\r\n\v")
    if is_clean:
        assert accepted_answers(json.dumps(texts)) == expected


@given(st.text(max_size=60))
def test_any_text_has_answers(text):
    for answer in accepted_answers(f"[{text}]") if "None" not in text and "null" not in text else []:
        assert answer == answer.strip()
