"""`convert custom` reads rows in anybody's shape; every other dataset refuses rows of another one."""

import json
from pathlib import Path
from typing import Any

import pytest
from dataset_files import CASES, read, write
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arpo_verl.command_line import main
from arpo_verl.data.checks import RowNeeds
from arpo_verl.data.rows import check_file
from arpo_verl.reward import compute_score


def convert(name: str, source: Path, *words: str) -> tuple[int, Path]:
    out = source.with_name("out.parquet")
    with pytest.raises(SystemExit) as stop:
        main(["data", "convert", name, "--from", str(source), "--out", str(out), *words])
    return int(stop.value.code or 0), out


def user(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]


def verl_row(truth: Any, **columns: Any) -> dict[str, Any]:
    return {
        "prompt": user("Q?"),
        "reward_model": {"style": "rule", "ground_truth": truth},
        "ability": "math",
        **columns,
    }


SQUAD = {
    "id": "5",
    "title": "T",
    "context": "c",
    "question": "Q?",
    "answers": {"text": ["a", "b", "a"], "answer_start": [1]},
}
TRIVIA = {
    "value": "a",
    "aliases": ["b", ""],
    "normalized_value": "A",
    "normalized_aliases": ["x"],
    "type": "WikipediaEntity",
}
NQ_HUB = {"short_answers": [{"start_token": [1], "text": ["a", "b"]}, {"text": []}], "yes_no_answer": [-1, -1]}
NQ_GOOGLE = {"short_answers": [{"start_token": 1, "end_token": 3}], "yes_no_answer": "NONE"}

SHAPES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "Search-R1": (verl_row({"target": ["a", "b"]}, ability="fact-reasoning", data_source="nq"), ["a", "b"]),
    "DAPO": (verl_row("34", ability="MATH", data_source="math_dapo", extra_info={"index": "9a-b"}), ["34"]),
    "Skywork": (verl_row('["34"]', ability="math", extra_info={"index": 3}), ["34"]),
    "a Python list as text": (verl_row("['34', '35']"), ["34", "35"]),
    "float32": (verl_row([0.10000000149011612, 1e-5]), ["0.1", "0.00001"]),
    "structs as text": (
        {
            "prompt": json.dumps(user("Q?")),
            "reward_model": '{"ground_truth": "7"}',
            "extra_info": '{"ability": "MATH"}',
        },
        ["7"],
    ),
    "TRL": ({"prompt": user("Q?"), "answer": "7", "ability": "mathematics"}, ["7"]),
    "prompt as text": ({"prompt": "Q?", "answer": 7, "ability": "algebra"}, ["7"]),
    "OpenAI's messages": ({"messages": user("Q?"), "answer": "7", "ability": "qa"}, ["7"]),
    "parts of text": ({"messages": user([{"type": "text", "text": "Q?"}]), "answer": "7", "ability": "qa"}, ["7"]),
    "an answered conversation": (
        {"messages": [*user("Q?"), {"role": "assistant", "content": "So \\boxed{7}."}], "ability": "math"},
        ["7"],
    ),
    "ShareGPT": (
        {
            "ability": "math",
            "conversations": [{"from": "human", "value": "Q?"}, {"from": "gpt", "value": "\\boxed{8}"}],
        },
        ["8"],
    ),
    "OpenR1": (
        {"problem": "Q?", "solution": "\\boxed{1}", "answer": "7", "messages": user("x"), "ability": "math"},
        ["7"],
    ),
    "a solution alone": ({"problem": "Q?", "solution": "so \\boxed{7}", "ability": "math"}, ["7"]),
    "GSM8K": ({"question": "Q?", "answer": "6 + 1 = 7\n#### 7", "ability": "math"}, ["7"]),
    "TriviaQA": ({"question": "Q?", "question_id": "tc_1", "answer": TRIVIA, "ability": "qa"}, ["a", "b"]),
    "SQuAD": (SQUAD | {"ability": "reading question"}, ["a", "b"]),
    "SQuAD with a list": ({"question": "Q?", "answers": [{"text": "a"}, {"text": "b"}], "ability": "qa"}, ["a", "b"]),
    "NQ open": ({"question": "Q?", "answer": ["a", "b"], "ability": "qa"}, ["a", "b"]),
    "DPR": ({"question": "Q?", "answers": ["a", "b"], "positive_ctxs": [{"title": "t"}], "ability": "qa"}, ["a", "b"]),
    "FlashRAG": ({"id": "test_0", "question": "Q?", "golden_answers": ["a", "b"], "ability": "qa"}, ["a", "b"]),
    "NQ on the Hub": (
        {"id": "1", "question": {"text": "Q?", "tokens": ["Q"]}, "annotations": NQ_HUB, "ability": "qa"},
        ["a", "b"],
    ),
    "NQ of Google": (
        {"question_text": "Q?", "document_text": "x a b y", "annotations": [NQ_GOOGLE], "ability": "qa"},
        ["a b"],
    ),
    "NQ yes or no": ({"question_text": "Q?", "annotations": [{"yes_no_answer": "YES"}], "ability": "qa"}, ["yes"]),
    "PopQA": ({"question": "Q?", "possible_answers": '["a", "b"]', "ability": "knowledge"}, ["a", "b"]),
    "MuSiQue's aliases": (
        {"question": "Q?", "answer": "a", "answer_aliases": ["b"], "ability": "multi-hop QA"},
        ["a", "b"],
    ),
    "an interval": ({"question": "Q?", "answer": "[1, 2]", "ability": "math"}, ["[1, 2]"]),
    "a known source": ({"question": "Q?", "answer": "7", "data_source": "gsm8k"}, ["7"]),
    "a known source of questions": ({"question": "Q?", "answer": "a", "data_source": "searchR1_nq"}, ["a"]),
}  # fmt: skip


@pytest.mark.parametrize("suffix", [".jsonl", ".parquet"])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_row_of_a_public_shape_is_converted(shape, suffix, tmp_path, capsys):
    row, answers = SHAPES[shape]
    code, out = convert("custom", write(tmp_path / f"x{suffix}", [row]))
    assert code == 0, capsys.readouterr().err
    [converted] = read(out)
    assert converted["reward_model"]["ground_truth"] == answers
    assert converted["prompt"][-1] == {"role": "user", "content": "Q?"}
    assert converted["ability"] == converted["extra_info"]["ability"] in ("math", "qa")
    response = f"<answer>\\boxed{{{answers[-1]}}}</answer>"
    assert compute_score(converted["data_source"], response, answers, converted["extra_info"])["acc"] == 1


@pytest.mark.parametrize(
    ("said", "ability"),
    [
        ("MATH", "math"), ("mathematics", "math"), ("Math-Reasoning", "math"), ("number theory", "math"),
        ("Geometry", "math"),
        ("fact-reasoning", "qa"), ("fact_reasoning", "qa"), ("QA", "qa"), ("multihop-qa", "qa"),
        ("open-domain QA", "qa"),
        ("question answering", "qa"), ("deepsearch", "qa"), ("web search", "qa"), ("knowledge", "qa"), ("trivia", "qa"),
        ("code", None), ("coding", None), ("logic", None), ("stem", None), ("research", None), ("chat", None),
    ],
)  # fmt: skip
def test_an_ability_under_another_name_is_understood_or_asked_for(said, ability, tmp_path, capsys):
    code, out = convert("custom", write(tmp_path / "x.jsonl", [{"question": "?", "answer": "a", "ability": said}]))
    if ability is None:
        assert code == 1
        assert f"field 'ability' is {said!r}; expected math or qa: say which with --ability" in capsys.readouterr().err
    else:
        assert code == 0 and read(out)[0]["ability"] == ability


DOCUMENTS = {
    "SQuAD's own file": {
        "version": "v2.0",
        "data": [
            {
                "title": "T",
                "paragraphs": [
                    {
                        "context": "c",
                        "qas": [{"id": "1", "question": "Q?", "answers": [{"text": "a", "answer_start": 3}]}],
                    },
                    {"context": "c", "qas": [{"id": "2", "question": "R?", "answers": [], "is_impossible": True}]},
                ],
            }
        ],
    },
    "TriviaQA's own file": {
        "Data": [
            {
                "Question": "Q?",
                "QuestionId": "tc_1",
                "Answer": {"Value": "a", "Aliases": [], "NormalizedAliases": ["x"]},
            }
        ],
        "Domain": "Web",
    },
}


@pytest.mark.parametrize("indent", [None, 1])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_the_original_json_of_a_dataset_is_read(name, indent, tmp_path, capsys):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(DOCUMENTS[name], indent=indent))
    code, out = convert("custom", path, "--ability", "qa")
    assert code == 0, capsys.readouterr().err
    assert [row["reward_model"]["ground_truth"] for row in read(out)] == [["a"]]
    assert read(out)[0]["extra_info"]["question"] == "Q?"


@pytest.mark.parametrize(
    "row", [SQUAD | {"answers": {"text": [], "answer_start": []}}, SQUAD | {"is_impossible": True}]
)
def test_a_question_without_an_answer_on_purpose_is_excluded_and_counted(row, tmp_path, capsys):
    code, out = convert("custom", write(tmp_path / "x.jsonl", [row, SQUAD]), "--ability", "qa")
    assert code == 0 and len(read(out)) == 1
    assert "1 excluded: it can't be answered, on purpose" in capsys.readouterr().out


@pytest.mark.parametrize("choices", [None, [], "A. a B. b"])
def test_a_field_of_choices_that_holds_none_does_no_harm(choices, tmp_path):
    row = {"question": "Q?", "choices": choices, "answer": "A"}
    code, out = convert("custom", write(tmp_path / "x.jsonl", [row]), "--ability", "qa")
    assert code == 0 and len(read(out)) == 1


UNUSABLE = {
    "no answer anywhere": ({"messages": user("Q?")}, "is missing; got messages"),
    "an answer without a box": (
        {"messages": [*user("Q?"), {"role": "assistant", "content": "Seven."}]},
        r"the assistant's message has no \boxed{}",
    ),
    "an image": (
        {"messages": user([{"type": "image_url"}]), "answer": "7"},
        "a part of the type 'image_url'; expected text",
    ),
    "an empty list as text": (verl_row("[]"), "field 'reward_model.ground_truth' has no answer"),
    "an unknown struct": ({"question": "Q?", "answer": {"x": 1}}, "field 'answer' is a dict"),
    "a boolean": ({"question": "Q?", "answer": True}, "field 'answer' is a boolean"),
    "an empty value": ({"question": "Q?", "answer": {"value": "", "aliases": []}}, "field 'answer' is a dict"),
    **{
        f"annotations are {value!r}": ({"question": "Q?", "annotations": value}, "has no short answer")
        for value in (False, True, 0, 7, 0.5, "yes", ["yes"], [[{}]])
    },
    **{
        f"short answers are {value!r}": (
            {"question": "Q?", "annotations": [{"short_answers": value}]},
            "has no short answer",
        )
        for value in (False, True, 0, 7, 0.5, "yes", ["yes"], [[{}]], [7])
    },
    "choices with the number of one": (
        {"question": "Q?", "choices": ["a", "b"], "answer": 1},
        "the row is of multiple choice, by the field 'choices'; expected the choices in the question",
    ),
    "options with a letter": ({"question": "Q?", "options": {"A": "a"}, "answer": "A"}, "by the field 'options'"),
    "no short answer": ({"question": "Q?", "annotations": [{"yes_no_answer": "NONE"}]}, "has no short answer"),
}


@pytest.mark.parametrize("fault", UNUSABLE)
def test_a_row_that_can_not_be_converted_is_named(fault, tmp_path, capsys):
    row, problem = UNUSABLE[fault]
    code, out = convert("custom", write(tmp_path / "x.jsonl", [row]), "--ability", "math")
    assert code == 1 and not out.exists()
    error = capsys.readouterr().err
    assert "x.jsonl, row 1: " in error and problem in error


KEYS = st.sampled_from(["role", "content", "from", "value", "text", "target", "aliases", "ground_truth"])
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6) | st.sampled_from(["[]", "{}"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner),
    max_leaves=6,
)
NAMES = [
    "question", "problem", "prompt", "messages", "conversations", "answer", "answers", "solution", "annotations",
    "reward_model", "extra_info", "ability", "data_source", "id", "level", "possible_answers", "document_text",
]  # fmt: skip


@settings(
    max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)
@given(rows=st.lists(st.fixed_dictionaries({}, optional=dict.fromkeys(NAMES, NESTED)), max_size=4))
def test_whatever_rows_hold_they_are_converted_or_named(rows, tmp_path, capsys):
    path = write(tmp_path / "x.jsonl", [*rows, {"question": "Q?", "answer": "7"}])
    code, out = convert("custom", path, "--ability", "qa", "--skip-bad-rows", "--overwrite")
    assert code == 0, capsys.readouterr().err
    assert check_file(out, RowNeeds()).rows == len(read(out)) >= 1


# ---- rows of another dataset ----

CASE = {case.name: case for case in CASES}
OWN = {name: case.rows for name, case in CASE.items() if name != "custom"} | {
    "questions": [{"question": "Who?", "answer": ["Frank Lowy"]}],
    "squad": [SQUAD],
    "triviaqa": [{"question": "Q?", "answer": TRIVIA}],
    "natural questions": [{"question": {"text": "Q?"}, "annotations": NQ_HUB}],
}
WRONG = [
    ("hotpotqa", "gsm8k", "the row is of gsm8k, by an answer that ends in '#### number'; expected one of hotpotqa"),
    ("hotpotqa", "aime25", "of a dataset of mathematics, by the field 'problem'"),
    ("hotpotqa", "math500", "the row is of math500"),
    ("hotpotqa", "musique", "the row is of musique, by question_decomposition"),
    ("hotpotqa", "2wiki", "the row is of 2wiki"),
    ("hotpotqa", "squad", "the row is of squad"),
    ("hotpotqa", "triviaqa", "the row is of triviaqa"),
    ("2wiki", "gsm8k", "the row is of gsm8k"),
    ("musique", "hotpotqa", "the row is of hotpotqa"),
    ("musique", "gsm8k", "the row is of gsm8k"),
    ("bamboogle", "webwalkerqa", "the row is of webwalkerqa"),
    ("bamboogle", "natural questions", "the row is of natural questions"),
    ("simpleqa", "gsm8k", "the row is of gsm8k"),
    ("simpleqa", "math500", "the row is of math500"),
    ("webwalkerqa", "gaia", "the row is of gaia"),
    ("gaia", "hle", "the row is of hle"),
    ("hle", "simpleqa", "the row is of simpleqa"),
    ("xbench-deepsearch", "gsm8k", "the row is of gsm8k"),
    ("gsm8k", "hotpotqa", "the row is of hotpotqa"),
    ("gsm8k", "math500", "the row is of math500"),
    ("math500", "questions", "of a dataset of questions, by an answer of plain words"),
    ("aime24", "gsm8k", "the row is of gsm8k"),
    ("aime25", "math500", "the row is of math500"),
    ("arpo-reasoning", "gsm8k", "the row is of gsm8k"),
    ("arpo-deepsearch", "bamboogle", "that are not in verl's columns"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "owner", "message"), WRONG)
def test_rows_of_another_dataset_are_refused_with_what_was_expected(name, owner, message, tmp_path, capsys):
    code, out = convert(name, write(tmp_path / "x.jsonl", OWN[owner]))
    assert code == 1 and not out.exists()
    error = capsys.readouterr().err
    assert message in error and f"expected one of {name}" in error and "give another file as --from" in error


def test_a_converted_file_of_another_dataset_is_refused(tmp_path, capsys):
    code, out = convert("gsm8k", write(tmp_path / "x.jsonl", CASE["gsm8k"].rows))
    assert code == 0
    first = out.rename(tmp_path / "gsm8k.parquet")
    code, _ = convert("hotpotqa", first)
    assert code == 1
    assert "the row is of gsm8k, by data_source 'gsm8k'" in capsys.readouterr().err


@pytest.mark.parametrize("answer", ["1000", "-1", "3.5", "Ulm", "\\frac12"])
def test_an_answer_that_no_aime_has_is_refused(answer, tmp_path, capsys):
    code, _ = convert("aime25", write(tmp_path / "x.jsonl", [{"problem": "Q?", "answer": answer}]))
    assert code == 1
    assert "field 'answer' is not an integer from 0 to 999; expected AIME's" in capsys.readouterr().err
