"""The validator: broken files are named with their rows, odd ones are let through with a warning."""

import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from dataset_files import RELEASED_PROMPT, released_row, write

from arpo_verl.command_line import main
from arpo_verl.data.prompts import tag_prompt
from arpo_verl.tiny_world.model import make_tokenizer

COUNT = 20


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as stop:
        main(["data", "validate", *map(str, words)])
    return int(stop.value.code)


def good_row(number: int, **columns: Any) -> dict[str, Any]:
    """A row as stock verl has it, with the truth as a list."""
    return {
        "data_source": "mine",
        "prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": f"What is {number} + 1?"}],
        "ability": "math",
        "reward_model": {"style": "rule", "ground_truth": [str(number + 1)]},
        "extra_info": {"split": "train", "index": number, "ability": "math"},
        **columns,
    }


def rows_with(number: int, **columns: Any) -> list[dict[str, Any]]:
    """Good rows, but for that with this number, counted from 1."""
    return [good_row(row, **(columns if row == number else {})) for row in range(1, COUNT + 1)]


def messages(*pairs: tuple[str | None, str | None]) -> list[dict[str, str | None]]:
    return [{"role": role, "content": content} for role, content in pairs]


def truth(*answers: str | None) -> dict[str, Any]:
    return {"style": "rule", "ground_truth": list(answers)}


BROKEN = {
    "prompt is null": (3, {"prompt": None}, "field 'prompt' is empty"),
    "prompt has no message": (4, {"prompt": []}, "field 'prompt' is empty"),
    "blank question": (5, {"prompt": messages(("user", " \n"))}, "role 'user' has no content"),
    "null content": (6, {"prompt": messages(("system", None), ("user", "?"))}, "role 'system' has no content"),
    "unknown role": (7, {"prompt": messages(("human", "?"))}, "role 'human'; expected one of system, user"),
    "null role": (8, {"prompt": messages((None, "?"))}, "role None"),
    "late system message": (
        9,
        {"prompt": messages(("user", "?"), ("system", "x"), ("user", "!"))},
        "expected it first",
    ),
    "answered already": (10, {"prompt": messages(("user", "?"), ("assistant", "5"))}, "ends with a message of role"),
    "reward_model is null": (11, {"reward_model": None}, "field 'reward_model.ground_truth' is null"),
    "truth is null": (12, {"reward_model": {"style": "rule", "ground_truth": None}}, "ground_truth' is null"),
    "no answer": (13, {"reward_model": truth()}, "field 'reward_model.ground_truth' has no answer"),
    "blank answer": (14, {"reward_model": truth("5", "")}, "has an empty answer, got ['5', '']; expected"),
    "null answer": (15, {"reward_model": truth("5", None)}, "has an answer that is null, got ['5', None]; expected"),
    "data_source is null": (16, {"data_source": None}, "field 'data_source' is empty"),
    "data_source is blank": (17, {"data_source": ""}, "field 'data_source' is empty"),
}


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_row_is_named(fault, tmp_path, capsys):
    number, columns, message = BROKEN[fault]
    file = write(tmp_path / "broken.parquet", rows_with(number, **columns))
    assert run(file) == 1
    output = capsys.readouterr()
    [line] = output.err.splitlines()
    assert line.startswith(f"error: {file}, row {number}: ") and message in line
    assert f"{COUNT} rows, 1 errors" in output.out


def test_a_broken_row_far_into_a_file_has_its_right_number(tmp_path, capsys):
    rows = [good_row(number) for number in range(2500)]
    rows[2344]["reward_model"] = truth("")
    assert run(write(tmp_path / "x.parquet", rows)) == 1
    assert "x.parquet, row 2345: " in capsys.readouterr().err


def test_an_empty_answer_as_plain_text_is_named_too(tmp_path, capsys):
    rows = [
        good_row(number, reward_model={"style": "rule", "ground_truth": "x" * (number != 2)}) for number in (1, 2, 3)
    ]
    assert run(write(tmp_path / "x.parquet", rows)) == 1
    assert "row 2: field 'reward_model.ground_truth'" in capsys.readouterr().err


def test_stock_verl_data_passes(tmp_path, capsys):
    rows = [good_row(number, reward_model={"style": "rule", "ground_truth": str(number)}) for number in range(3)]
    rows += [good_row(3, prompt=messages(("user", "?"), ("assistant", "!"), ("user", "??")))]
    rows[3]["reward_model"] = {"style": "rule", "ground_truth": "x"}
    assert run(write(tmp_path / "x.parquet", rows)) == 0
    assert "4 rows, 0 errors, 0 warnings" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"prompt": ["What?"], "data_source": ["x"], "reward_model": [truth("1")]}, "column 'prompt' is string"),
        ({"question": ["What?"], "data_source": ["x"]}, "columns ['question', 'data_source']; expected"),
        (
            {"prompt": [[{"role": "user"}]], "data_source": ["x"], "reward_model": [truth("1")]},
            "column 'prompt' is list",
        ),
        (
            {"prompt": [messages(("user", "?"))], "data_source": [1], "reward_model": [truth("1")]},
            "'data_source' is int",
        ),
        (
            {"prompt": [messages(("user", "?"))], "data_source": ["x"], "reward_model": ["1"]},
            "'reward_model' is string",
        ),
        (
            {"prompt": [[{"role": "user", "content": ["?"]}]], "data_source": ["x"], "reward_model": [truth("1")]},
            "has contents of list",
        ),
    ],
)
def test_a_column_of_the_wrong_type_is_named(table, message, tmp_path, capsys):
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    assert run(tmp_path / "x.parquet") == 1
    error = capsys.readouterr().err
    assert f"error: {tmp_path}/x.parquet: " in error and message in error


def test_a_file_that_is_none_is_named_and_the_others_are_checked(tmp_path, capsys):
    good = write(tmp_path / "good.parquet", rows_with(0))
    (tmp_path / "text.parquet").write_text("question,answer\n")
    (tmp_path / "half.parquet").write_bytes(good.read_bytes()[:1000])
    empty = tmp_path / "empty.parquet"
    pq.write_table(pq.read_table(good).slice(0, 0), empty)
    missing = tmp_path / "missing.parquet"
    assert run(missing, tmp_path / "text.parquet", tmp_path / "half.parquet", empty, good) == 1
    output = capsys.readouterr()
    assert "missing.parquet: is not a file: correct the path" in output.err
    for name in ("text", "half"):
        assert f"{name}.parquet: is not a parquet file that can be read" in output.err
    assert "empty.parquet: has no row" in output.err
    assert f"{COUNT} rows, 4 errors" in output.out


def test_files_that_verl_could_not_concatenate_are_an_error(tmp_path, capsys):
    lists = write(tmp_path / "lists.parquet", rows_with(0))
    plain = [good_row(number, reward_model={"style": "rule", "ground_truth": "x"}) for number in range(30, 33)]
    assert run(lists, write(tmp_path / "plain.parquet", plain)) == 1
    error = capsys.readouterr().err
    assert f"plain.parquet: can't be concatenated with {lists}: they differ in column reward_model" in error


def test_the_order_of_columns_and_fields_does_not_matter(tmp_path):
    first = write(tmp_path / "first.parquet", rows_with(0))
    turned = [dict(reversed(good_row(number).items())) for number in range(30, 33)]
    for row in turned:
        row["prompt"] = [dict(reversed(message.items())) for message in row["prompt"]]
    assert run(first, write(tmp_path / "turned.parquet", turned)) == 0


def test_what_stands_twice_is_a_warning(tmp_path, capsys):
    rows = rows_with(5, reward_model=truth("5", " 5", "five"))
    rows[9] = {**good_row(3), "extra_info": {"split": "train", "index": 9, "ability": "math", "id": "mine/1"}}
    rows[11]["extra_info"]["id"] = "mine/1"
    assert run(write(tmp_path / "x.parquet", rows)) == 0
    output = capsys.readouterr().out
    assert "row 5: field 'reward_model.ground_truth' has an answer twice" in output
    assert "row 10: the same prompt as row 3" in output
    assert "row 12: the same extra_info.id 'mine/1' as row 10" in output
    assert f"{COUNT} rows, 0 errors, 3 warnings" in output


def test_a_question_of_the_training_in_the_validation_is_a_warning(tmp_path, capsys):
    train = write(tmp_path / "train.parquet", rows_with(0))
    other_prompt = messages(("system", "Another prompt."), ("user", "what is  7 + 1?"))
    test = write(tmp_path / "test.parquet", [good_row(50), good_row(51, prompt=other_prompt)])
    assert run(train, test) == 0
    output = capsys.readouterr().out
    assert f"test.parquet, row 2: the same question as {train}, row 7" in output
    assert "0 errors, 1 warnings" in output


def test_of_many_errors_of_a_kind_the_first_are_shown_and_all_are_counted(tmp_path, capsys):
    rows = [good_row(number, data_source="") for number in range(9)]
    assert run(write(tmp_path / "x.parquet", rows)) == 1
    output = capsys.readouterr()
    assert output.err.count(".parquet, row") == 3
    assert "... and 6 more: field 'data_source' is empty" in output.err
    assert "9 errors" in output.out


def test_tags_that_no_prompt_shows_are_a_warning(tmp_path, capsys):
    shown = good_row(1, prompt=messages(("system", tag_prompt(["python"])), ("user", "?")))
    file = write(tmp_path / "x.parquet", [shown, good_row(2)])
    assert run(file, "--tools", "python,search") == 0
    output = capsys.readouterr().out
    assert "2 of 2 prompts never show <search>" in output
    for tag in ("<python>", "<answer>", "\\boxed"):
        assert f"1 of 2 prompts never show {tag}" in output
    assert run(file) == 0
    assert "never" not in capsys.readouterr().out


def test_a_lost_backslash_is_a_warning(tmp_path, capsys):
    rows = [released_row("x", "Find $\x0crac12$.", "1"), released_row("x", "Fine\tand\nwell", "1")]
    assert "\x08" in RELEASED_PROMPT
    assert run(write(tmp_path / "x.parquet", rows)) == 0
    output = capsys.readouterr().out
    assert "2 of 2 prompts have the character '\\x08' in their system message" in output
    assert "row 1: field 'prompt': the question has the character '\\x0c'" in output
    assert "row 2: field" not in output


@pytest.fixture
def tokenizer_folder(tmp_path) -> Path:
    make_tokenizer().save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_prompt_is_measured_in_tokens_of_the_chat_template(tokenizer_folder, tmp_path, capsys):
    rows = [good_row(1, prompt=messages(("user", "x" * length))) for length in (10, 21, 20)]
    file = write(tmp_path / "x.parquet", rows)
    # The tiny world's template adds <|user|>, <|im_end|> and <|assistant|>; a letter is a token.
    assert run(file, "--tokenizer", tokenizer_folder, "--max-prompt-tokens", 23) == 1
    output = capsys.readouterr()
    [line] = output.err.splitlines()
    assert "row 2: field 'prompt' is longer than 23 tokens: 24; raise data.max_prompt_length" in line
    assert "longest prompt, tokens" in output.out and " 24 " in output.out
    assert run(file, "--tokenizer", tokenizer_folder, "--max-prompt-tokens", 24) == 0


def test_a_prompt_that_the_chat_template_refuses_is_named(tmp_path, capsys):
    tokenizer = make_tokenizer()
    tokenizer.chat_template = (
        "{% for message in messages %}{% if message['role'] == 'system' %}"
        "{{ raise_exception('System role not supported') }}{% endif %}{{ message['content'] }}{% endfor %}"
    )
    tokenizer.save_pretrained(tmp_path / "model")
    file = write(tmp_path / "x.parquet", [good_row(1, prompt=messages(("user", "abc"))), good_row(2)])
    assert run(file, "--tokenizer", tmp_path / "model") == 1
    assert "row 2: field 'prompt': the chat template refuses it: System role" in capsys.readouterr().err


def test_a_tokenizer_that_is_none_is_an_error(tokenizer_folder, tmp_path, capsys):
    file = write(tmp_path / "x.parquet", rows_with(0))
    (tmp_path / "empty").mkdir()
    assert run(file, "--tokenizer", tmp_path / "nowhere") == 1
    assert "no such folder" in capsys.readouterr().err
    assert run(file, "--tokenizer", tmp_path / "empty") == 1
    assert "no tokenizer" in capsys.readouterr().err
    assert run(file, "--max-prompt-tokens", 5) == 1
    assert "needs --tokenizer" in capsys.readouterr().err


def test_counts_stand_by_data_source_and_ability(tmp_path, capsys):
    rows = [good_row(number, data_source="a" if number < 7 else "b") for number in range(10)]
    rows[9]["ability"] = None
    rows[9]["extra_info"]["ability"] = "qa"
    assert run(write(tmp_path / "x.parquet", rows)) == 0
    cells = [
        [cell.strip() for cell in line.split("│")[2:5]] for line in capsys.readouterr().out.splitlines() if "│" in line
    ]
    assert cells == [["a", "math", "7"], ["b", "math", "2"], ["b", "qa", "1"]]


def test_ten_thousand_rows_take_seconds(tmp_path):
    text = "Use <search> and <python> step by step. " * 40
    rows = [good_row(number, prompt=messages(("system", text), ("user", f"{number}?"))) for number in range(10_000)]
    file = write(tmp_path / "x.parquet", rows)
    started = time.process_time()
    assert run(file, "--tools", "python,search") == 0
    assert time.process_time() - started < 10
