"""The check of every row, wherever a run starts: what can't be used is named, what is a guess is said."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_files import write
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from arpo_verl.command_line import main
from arpo_verl.data.checks import RowNeeds, row_faults
from arpo_verl.data.rows import check_file
from arpo_verl.doctor.data import check_data_files
from arpo_verl.doctor.finding import DoctorInput, DoctorOptions, Status
from arpo_verl.reward.accepted import accepted_answers

NEEDS = RowNeeds()
ROWS = 12


def good_row(**columns: Any) -> dict[str, Any]:
    return {
        "data_source": "gsm8k",
        "prompt": [{"role": "user", "content": "1+1?"}],
        "reward_model": {"style": "rule", "ground_truth": "2"},
        "extra_info": {"index": 0, "ability": "math"},
        **columns,
    }


def file_with(folder: Path, number: int, suffix: str = ".jsonl", **columns: Any) -> Path:
    """Write good rows, but for that with this number, counted from 1."""
    return write(folder / f"x{suffix}", [good_row(**(columns if row == number else {})) for row in range(1, ROWS + 1)])


def truth(ground_truth: Any) -> dict[str, Any]:
    return {"reward_model": {"style": "rule", "ground_truth": ground_truth}}


def prompt(*messages: Any) -> dict[str, Any]:
    return {"prompt": list(messages)}


def message(role: Any, content: Any) -> dict[str, Any]:
    return {"role": role, "content": content}


BAD = {
    "null truth": (truth(None), "field 'reward_model.ground_truth' is null; expected the accepted answers"),
    "empty truth": (truth(""), "field 'reward_model.ground_truth' is empty, got ''; expected"),
    "blank truth": (truth(" \n"), "is empty, got ' \\n'; expected"),
    "no truth in a list": (truth([]), "has no answer, got []; expected"),
    "an empty list as text": (truth("[]"), "has no answer, got '[]'; expected"),
    "null in a list": (truth(["2", None]), "has an answer that is null, got ['2', None]; expected"),
    "blank in a list": (truth(["2", ""]), "has an empty answer, got ['2', '']; expected"),
    "a list of lists": (truth([["2"]]), "has an answer that is a list, got [['2']]; expected"),
    "an unknown mapping": (truth({"answer": "2"}), "is a dict, got {'answer': '2'}; expected"),
    "an empty target": (truth({"target": []}), "has no answer, got {'target': []}; expected"),
    "a truth that is true": (truth(True), "is a boolean"),
    "NaN": (truth(float("nan")), "is nan, which is not a finite number"),
    "infinite": (truth(float("inf")), "is inf, which is not a finite number"),
    "no truth": ({"reward_model": {"style": "rule"}}, "field 'reward_model.ground_truth' is null"),
    "no reward model": ({"reward_model": None}, "field 'reward_model.ground_truth' is null"),
    "reward model as text": ({"reward_model": '{"ground_truth": "2"}'}, "field 'reward_model' is a text, got"),
    "null source": ({"data_source": None}, "field 'data_source' is empty; expected the name of the dataset"),
    "blank source": ({"data_source": " "}, "field 'data_source' is not a name, got ' '; expected"),
    "a number as source": ({"data_source": 7}, "field 'data_source' is not a name, got 7; expected"),
    "a list as source": ({"data_source": ["gsm8k"]}, "field 'data_source' is not a name, got ['gsm8k']"),
    "null prompt": ({"prompt": None}, "field 'prompt' is empty; expected a list of messages"),
    "no message": (prompt(), "field 'prompt' is empty; expected a list of messages"),
    "prompt as text": ({"prompt": "1+1?"}, "field 'prompt' is a text, got '1+1?'; expected a list of messages"),
    "prompt as a message": ({"prompt": message("user", "?")}, "field 'prompt' is a dict, got {'role'"),
    "messages as text": (prompt("1+1?"), "field 'prompt' is a list of other things, got ['1+1?']"),
    "a null message": (prompt(None), "field 'prompt' is a list of other things, got [None]"),
    "no role": (prompt({"content": "?"}), "field 'prompt' has the role None; expected one of system, user"),
    "a role of ShareGPT": (prompt(message("human", "?")), "field 'prompt' has the role 'human'; expected one of"),
    "a list as role": (prompt(message(["user"], "?")), "field 'prompt' has the role ['user']; expected one of"),
    "null content": (prompt(message("user", None)), "a message of role 'user' has no content; expected text"),
    "blank content": (prompt(message("user", " ")), "a message of role 'user' has no content, got ' '; expected text"),
    "a number as content": (prompt(message("user", 5)), "has a int as content, got 5; expected text"),
    "parts as content": (prompt(message("user", [{"type": "text"}])), "has a list as content, got [{'type'"),
    "already answered": (prompt(message("user", "?"), message("assistant", "!")), "ends with a message of role 'assi"),
    "instructions alone": (prompt(message("system", "x")), "ends with a message of role 'system'"),
    "a result alone": (prompt(message("tool", "x")), "has no message of role 'user'; expected a question"),
    "extra_info as text": (
        {"extra_info": '{"index": 3}'},
        "field 'extra_info' is a text, got '{\"index\": 3}'; expected",
    ),
    "extra_info as a list": ({"extra_info": [1]}, "field 'extra_info' is a list, got [1]; expected a struct"),
}


@pytest.mark.parametrize("fault", BAD)
def test_a_row_that_no_run_can_use_is_named(fault, tmp_path):
    columns, problem = BAD[fault]
    path = file_with(tmp_path, 7, **columns)
    with pytest.raises(ValueError) as error:
        check_file(path, NEEDS)
    first, *_, advice = str(error.value).splitlines()
    assert first.startswith(f"{path}, row 7: ") and problem in first
    assert "Rows are counted from 1. Correct the file, or leave bad rows out: `arpo-verl data convert custom" in advice


@pytest.mark.parametrize("fault", ["null truth", "empty truth", "null source", "null prompt", "blank content"])
@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_it_is_named_in_a_file_of_any_format_that_verl_reads(fault, suffix, tmp_path):
    columns, problem = BAD[fault]
    path = file_with(tmp_path, 7, suffix, **columns)
    with pytest.raises(ValueError, match="row 7: ") as error:
        check_file(path, NEEDS)
    assert problem in str(error.value)


@pytest.mark.parametrize(
    "columns",
    [
        truth('["34"]'),
        truth("0"),
        truth(["2", "two"]),
        truth({"target": ["2"]}),
        {"extra_info": None},
        prompt(message("user", "?"), message("assistant", "!"), message("user", "??")),
        prompt(message("user", "?"), message("assistant", "!"), message("tool", "5")),
        prompt({"role": "user", "content": "?", "name": "Ann"}),
    ],
)
def test_a_row_of_an_allowed_shape_passes(columns, tmp_path):
    assert check_file(file_with(tmp_path, 7, **columns), NEEDS).rows == ROWS


@pytest.mark.parametrize(
    "ground_truth", [["2", "two"], {"target": ["2"]}, {"target": "2"}, '["34"]', "[1, 2]", 1e-5, 0, [1, 2.5], "None"]
)
def test_a_ground_truth_of_an_allowed_shape_passes(ground_truth, tmp_path):
    for suffix in (".jsonl", ".parquet"):
        assert check_file(write(tmp_path / f"x{suffix}", [good_row(**truth(ground_truth))]), NEEDS).rows == 1


def test_the_last_row_of_a_large_file_is_read_too(tmp_path):
    rows = [good_row() for _ in range(2345)]
    rows[-1]["reward_model"] = {"style": "rule", "ground_truth": None}
    with pytest.raises(ValueError, match=r"x\.parquet, row 2345: field 'reward_model\.ground_truth' is null"):
        check_file(write(tmp_path / "x.parquet", rows), NEEDS)


def test_of_many_bad_rows_the_first_are_shown_and_all_are_counted(tmp_path):
    rows = [good_row(**(truth(None) if number % 2 else {})) for number in range(40)]
    with pytest.raises(ValueError) as error:
        check_file(write(tmp_path / "x.jsonl", rows), NEEDS)
    assert str(error.value).count("row ") == 5
    assert "... and others: 20 of 40 rows can't be used" in str(error.value)


@pytest.mark.parametrize(
    ("table", "problem"),
    [
        ({"prompt": ["?"]}, "column 'prompt' is string; expected a list of structs with role and content"),
        ({"prompt": [[{"role": "user"}]]}, "column 'prompt' is list"),
        ({"prompt": [[{"role": "user", "content": ["?"]}]]}, "column 'prompt' has contents of list"),
        ({"data_source": [1]}, "column 'data_source' is int64; expected text"),
        ({"reward_model": ["2"]}, "column 'reward_model' is string; expected a struct with ground_truth"),
        ({"reward_model": [{"style": "rule"}]}, "column 'reward_model' is struct<style: string>; expected a struct"),
        ({"extra_info": ['{"index": 3}']}, "column 'extra_info' is string; expected a struct"),
        ({"extra_info": [[1]]}, "column 'extra_info' is list"),
    ],
)
def test_a_column_of_the_wrong_type_is_named_once(table, problem, tmp_path):
    columns = pa.Table.from_pylist([good_row()])
    for name, values in table.items():
        columns = columns.set_column(columns.schema.get_field_index(name), name, pa.array(values))
    pq.write_table(columns, tmp_path / "x.parquet")
    with pytest.raises(ValueError) as error:
        check_file(tmp_path / "x.parquet", NEEDS)
    assert f"x.parquet: {problem}" in str(error.value) and "convert it with `arpo-verl data convert" in str(error.value)


def test_a_column_of_prompts_under_another_name_is_pointed_to(tmp_path):
    row = good_row()
    row["messages"] = row.pop("prompt")
    path = write(tmp_path / "x.parquet", [row])
    with pytest.raises(
        ValueError, match=r"add \['prompt'\]; its prompts may stand in .*: set data\.prompt_key=messages"
    ):
        check_file(path, NEEDS)
    assert check_file(path, RowNeeds("messages")).rows == 1


@pytest.mark.parametrize("content", [b"", b"no parquet", b"PAR1", b"PAR1PAR1"])
def test_a_file_that_is_no_parquet_is_named(content, tmp_path):
    (tmp_path / "x.parquet").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.parquet is not a parquet file that can be read: .*; expected one"):
        check_file(tmp_path / "x.parquet", NEEDS)


def test_a_parquet_that_is_damaged_inside_is_named(tmp_path):
    path = write(tmp_path / "x.parquet", [good_row(**truth(str(number) * 50)) for number in range(3000)])
    content = bytearray(path.read_bytes())
    content[200:4000] = bytes(3800)
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.parquet can't be read after row \d+: .*; expected a whole file"):
        check_file(path, NEEDS)


def test_text_that_is_not_unicode_is_named(tmp_path):
    table = pa.Table.from_pylist([good_row()])
    raw = pa.array([b"\xff\xfe"], pa.binary()).view(pa.string())
    pq.write_table(
        table.set_column(table.schema.get_field_index("data_source"), "data_source", raw), tmp_path / "x.parquet"
    )
    with pytest.raises(ValueError, match=r"x\.parquet can't be read after row 0: .*utf-8"):
        check_file(tmp_path / "x.parquet", NEEDS)


@pytest.mark.parametrize("suffix", [".parquet", ".json"])
def test_a_file_without_rows_is_named(suffix, tmp_path):
    path = tmp_path / f"x{suffix}"
    if suffix == ".json":
        path.write_text("[]")
    else:
        pq.write_table(pa.Table.from_pylist([good_row()]).slice(0, 0), path)
    with pytest.raises(ValueError, match="has no rows; expected at least one"):
        check_file(path, NEEDS)


def test_a_line_that_is_no_json_is_named(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(json.dumps(good_row()) + "\n{\n[1]\n")
    with pytest.raises(ValueError) as error:
        check_file(path, NEEDS)
    assert "row 2: the line is not a JSON object" in str(error.value) and "row 3: got a JSON list" in str(error.value)


def test_another_reward_may_have_any_truth_but_none(tmp_path):
    needs = RowNeeds(accepts_any_ground_truth=True)
    path = write(tmp_path / "x.jsonl", [good_row(**truth({"tests": tests})) for tests in ([], ["assert f(1)"])])
    assert check_file(path, needs).rows == 2
    with pytest.raises(ValueError, match=r"row 3: field 'reward_model\.ground_truth' is null; expected what the"):
        check_file(file_with(tmp_path, 3, **truth(None)), needs)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["role", "content", "target"]), inner),
    max_leaves=6,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys((*good_row(), "ability"), VALUES)))
def test_whatever_a_row_holds_it_is_checked_and_a_good_one_can_be_scored(row):
    for needs in (NEEDS, RowNeeds(accepts_any_ground_truth=True)):
        faults = [str(fault) for fault in row_faults(row, needs)]
        assert all("; expected" in fault for fault in faults)
    if not list(row_faults(row, NEEDS)):
        answers = accepted_answers(row["reward_model"]["ground_truth"])
        assert answers and all(answer.strip() for answer in answers)


# ---- guesses ----

SAID = {
    "a name without meaning": ({"data_source": "mine"}, "compared as text, which is a guess; say math or qa"),
    "the column alone": (
        {"data_source": "mine", "ability": "MATH"},
        "verl does not hand it to a reward: compared as text",
    ),
    "the column of questions": (
        {"data_source": "math_qa", "ability": "qa"},
        "the column 'ability' says 'qa', but verl",
    ),
    "mathematics in other words": (
        {"extra_info": {"ability": "algebra"}},
        "'algebra', which the reward compares as text",
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_a_guess_about_the_comparison_of_answers_is_a_warning(case, tmp_path):
    columns, warning = SAID[case]
    row = good_row(extra_info=None) | columns
    [said] = check_file(write(tmp_path / "x.jsonl", [row, row, good_row()]), NEEDS).warnings
    assert said.startswith("2 of 3 rows ") and warning in said


@pytest.mark.parametrize(
    "source", ["gsm8k", "MATH-500", "nq", "searchR1_triviaqa", "squad", "hotpotqa", "2wiki", "DR_hle"]
)
def test_a_dataset_that_is_known_by_its_name_is_no_guess(source, tmp_path):
    path = write(tmp_path / "x.jsonl", [good_row(data_source=source, extra_info=None)])
    assert check_file(path, NEEDS).warnings == []


@pytest.mark.parametrize("ability", ["qa", "fact-reasoning"])
def test_a_column_that_says_what_is_done_leaves_no_guess(ability, tmp_path):
    path = write(tmp_path / "x.jsonl", [good_row(data_source="mine", extra_info=None, ability=ability)])
    assert check_file(path, NEEDS).warnings == []


# ---- where runs start ----


def doctor_input(path: Path) -> DoctorInput:
    data = {"train_files": str(path), "val_files": str(path), "prompt_key": "prompt", "custom_cls": {"path": None}}
    reward = {"custom_reward_function": {"path": "pkg://arpo_verl.reward"}}
    return DoctorInput(OmegaConf.create({"data": data, "reward": reward}), DoctorOptions())


def test_the_doctor_names_the_row_that_would_end_a_run(tmp_path):
    with pytest.raises(
        ValueError, match=r"data\.train_files=.*x\.parquet, row 7: field 'reward_model\.ground_truth' is null"
    ):
        check_data_files(doctor_input(file_with(tmp_path, 7, ".parquet", **truth(None))), "train_files")


def test_the_doctor_says_what_is_read_and_what_is_a_guess(tmp_path):
    [found] = check_data_files(doctor_input(file_with(tmp_path, 0, ".jsonl")), "val_files")
    assert (found.status, found.text) == (Status.OK, f"{ROWS} rows in verl's columns, all read")
    path = file_with(tmp_path, 7, ".jsonl", data_source="mine", extra_info=None)
    [found] = check_data_files(doctor_input(path), "val_files")
    assert found.status is Status.WARNING and "1 of 12 rows of data source 'mine'" in found.text


def test_validation_of_a_file_whose_extra_info_is_text_names_it(tmp_path, capsys):
    path = write(tmp_path / "x.parquet", [good_row(extra_info='{"index": 3}')])
    with pytest.raises(SystemExit) as stop:
        main(["data", "validate", str(path)])
    assert stop.value.code == 1
    assert f"error: {path}: column 'extra_info' is string; expected a struct" in capsys.readouterr().err


def test_validation_takes_the_rows_of_search_r1(tmp_path, capsys):
    path = write(tmp_path / "x.parquet", [good_row(data_source="nq", **truth({"target": ["2", "two"]}))])
    with pytest.raises(SystemExit) as stop:
        main(["data", "validate", str(path)])
    assert stop.value.code == 0, capsys.readouterr().err
