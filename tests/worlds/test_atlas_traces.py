"""The expert's traces: the real tools' results, full reward where they are right, strategies and styles as told."""

import asyncio
import json
import random
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
import yaml

import arpo_tools
from arpo_tools import LocalSearch, PythonInterpreter
from arpo_verl.data.source import open_source
from arpo_verl.data.traces import TraceOptions, convert_traces, tags_of
from arpo_verl.reward import compute_score
from arpo_verl.rollout.tag_syntax import Tags
from arpo_verl.worlds.atlas.expert import STRATEGIES, possible_strategies, solve
from arpo_verl.worlds.atlas.kinds import KINDS
from arpo_verl.worlds.atlas.styles import STYLES
from arpo_verl.worlds.atlas.tools import PAGES, WorldTools

CALL = re.compile(r"<(search|python)>(.*?)</\1> <result>\n(.*?)\n</result>", re.DOTALL)


@pytest.fixture(scope="module", params=["free", "terse"])
def folder(request, atlas, terse_atlas) -> Path:
    return atlas if request.param == "free" else terse_atlas


def traces_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "traces.jsonl").open(encoding="utf-8")]


def text_of(trace: dict) -> str:
    return trace["conversations"][-1]["value"]


def answer_of(trace: dict) -> str:
    return re.search(r"\\boxed\{(.*)\}", text_of(trace))[1]


def test_right_traces_have_full_reward_and_wrong_ones_are_hasty(folder):
    for trace in traces_of(folder):
        text = text_of(trace)
        score = compute_score(f"atlas/{trace['kind']}", text, [answer_of(trace)], {"ability": "qa"})
        assert score["score"] == (1.1 if "<python>" in text else 1.0), score["reason"]
        assert trace["is_right"] or trace["strategy"] == "hasty"


def test_a_trace_is_right_where_its_question_is_answered(made, atlas):
    assert [trace.text for trace in made.traces] == [text_of(trace) for trace in traces_of(atlas)]
    for trace in made.traces:
        score = compute_score("atlas/x", trace.text, [trace.question.answer], {"ability": "qa"})
        assert (score["acc"] == 1) == trace.is_right
        assert trace.answer == answer_of({"conversations": [{"value": trace.text}]})


def test_traces_name_nothing_that_validation_asks_about(made):
    held_out = frozenset().union(*(question.entities for question in made.validation))
    assert len(held_out) > 50
    assert all(not trace.question.entities & held_out for trace in made.traces)


def test_results_are_what_the_tools_show(folder, tmp_path):
    calls = {call for trace in traces_of(folder) for call in CALL.findall(text_of(trace))}
    programs = sorted(call for call in calls if call[0] == "python")[:12]
    searches = sorted(call for call in calls if call[0] == "search")
    assert len(programs) == 12 and len(searches) > 100

    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes((folder / "corpus.jsonl").read_bytes())

    async def run_again() -> None:
        search, python = LocalSearch(corpus), PythonInterpreter()
        for _, query, result in searches:
            assert (await search.run(query)).text == result
        for _, code, result in programs:
            assert (await python.run(code)).text == result
        python.close()

    asyncio.run(run_again())


def test_search_shows_as_many_pages_as_in_training():
    tools = yaml.safe_load((Path(arpo_tools.__file__).parent / "tools.yaml").read_text())["tools"]
    assert [tool["config"]["top_k"] for tool in tools if "SearchTool" in tool["class_name"]] == [PAGES]


def test_traces_can_be_converted_for_the_cold_start(folder, tmp_path):
    tags = Tags(["python", "search"])
    out = tmp_path / "traces.parquet"
    counts = convert_traces(open_source(str(folder / "traces.jsonl"), "train", None), out, TraceOptions(tags), False)
    assert (counts.written, counts.bad.total(), counts.without_calls) == (121, 0, 0)
    assert counts.calls["search"] > counts.calls["python"] > 20
    assert tags_of(out) == tags


def test_each_kind_has_as_many_traces_and_each_strategy_is_used(folder):
    traces = traces_of(folder)
    assert Counter(trace["kind"] for trace in traces) == dict.fromkeys(KINDS, 11)
    strategies = Counter(trace["strategy"] for trace in traces)
    assert set(strategies) == set(STRATEGIES)
    assert strategies["careful"] > 0.4 * len(traces)


def first_query(trace: dict) -> str:
    return CALL.search(text_of(trace))[2]


def test_who_computes_in_the_head_calls_no_python_and_everybody_else_does(folder):
    for trace in traces_of(folder):
        is_computed = trace["kind"] in ("density", "share", "together", "gap")
        assert ("<python>" in text_of(trace)) == (is_computed and trace["strategy"] != "mental")
        assert is_computed or trace["strategy"] != "mental"


def test_who_searches_broadly_or_hastily_asks_for_the_bare_name_first(folder):
    by_strategy = defaultdict(list)
    for trace in traces_of(folder):
        if trace["kind"] == "homonym":
            by_strategy[trace["strategy"]].append(trace)
    for trace in by_strategy["broad"] + by_strategy["hasty"]:
        assert f"the {first_query(trace)} in " in trace["conversations"][1]["value"]
    for trace in by_strategy["careful"]:
        assert f"the {first_query(trace)} in " not in trace["conversations"][1]["value"]


def test_who_is_hasty_takes_the_first_page_of_the_name(folder):
    for trace in traces_of(folder):
        if (trace["strategy"], trace["kind"]) == ("hasty", "homonym"):
            name = first_query(trace)
            pages = CALL.search(text_of(trace))[3].split("\n")
            first = next(page for page in pages if re.search(rf"(?i)(^Page \d: |\(Title: ){name}\b", page))
            assert re.search(rf"\b{answer_of(trace)}\b", first) or not trace["is_right"]


@pytest.mark.parametrize("style", STYLES)
def test_a_question_that_is_asked_can_be_solved_by_every_strategy_in_any_words(made, atlas, tmp_path, style):
    corpus = tmp_path / "corpus.jsonl"
    corpus.write_bytes((atlas / "corpus.jsonl").read_bytes())

    async def solve_all() -> int:
        tools, solved = WorldTools(corpus), 0
        for question in made.validation + made.train:
            for strategy in possible_strategies(question) if question.program is None else ():
                for seed in range(3):
                    trace = await solve(question, strategy, STYLES[style], random.Random(seed), tools)
                    assert trace.is_right or strategy == "hasty"
                    solved += 1
        return solved

    assert asyncio.run(solve_all()) > 500


def thoughts_after_results(folder: Path) -> list[str]:
    """Return the thoughts, with all but the words of the style taken out."""
    found = [
        thought
        for trace in traces_of(folder)
        for thought in re.findall(r"</result>\n<think>(.*?)</think>", text_of(trace))
    ]
    return [re.sub(r"(the )?\b[A-Z][\w'’-]+|[\d.]+", "_", thought) for thought in found]


def test_free_thoughts_begin_in_many_ways_and_terse_ones_in_few(atlas, terse_atlas):
    beginnings = {
        folder: {thought[:12] for thought in thoughts_after_results(folder)} for folder in (atlas, terse_atlas)
    }
    assert len(beginnings[terse_atlas]) < 40
    assert len(beginnings[atlas]) > 2 * len(beginnings[terse_atlas])


def test_only_the_words_differ_between_styles(atlas, terse_atlas):
    for file in ("corpus.jsonl", "train.parquet", "validation.parquet"):
        assert (atlas / file).read_bytes() == (terse_atlas / file).read_bytes()
    free, terse = traces_of(atlas), traces_of(terse_atlas)
    assert [(one["conversations"][:2], one["kind"]) for one in free] == [
        (one["conversations"][:2], one["kind"]) for one in terse
    ]


def test_no_thought_tells_where_cities_are_before_a_page_did(folder):
    for trace in traces_of(folder):
        if trace["kind"] in ("namesake", "other"):
            assert not re.search(r"\bin \w", text_of(trace).partition("<result>")[0])
