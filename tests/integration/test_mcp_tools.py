"""Tools of a real MCP server in verl's tool list and in trees: schemas, one session for all or one for each leaf."""

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import yaml
from branching_worlds import ALWAYS, Wanderer, grow, paths_of
from mcp_processes import COMMAND, http_server
from verl.tools.tool_registry import load_all_tools

from arpo_verl.integration.rollout.call_arguments import fitted
from arpo_verl.integration.rollout.mcp_schema import mcp_schema
from arpo_verl.integration.rollout.mcp_tools import McpSessionTool, McpTool, McpTools
from arpo_verl.integration.rollout.tools import ToolSettings, VerlTools, tool_schema
from arpo_verl.rollout.protocols import ToolCall
from arpo_verl.rollout.tree import TOOL_CANNOT_FORK

CLASS = "arpo_verl.integration.rollout.mcp_tools.McpTools"
ITEMS = ["<put>pear</put>", "<put>fig</put>", "<put>tea</put>"]
LOCKSTEP = replace(ALWAYS, schedule="lockstep")


@pytest.fixture(scope="module")
def address() -> Iterator[dict]:
    with http_server() as (address, _):
        yield address


@contextlib.contextmanager
def entry(**config) -> Iterator[McpTools]:
    made = McpTools({"type": "native", "call_seconds": 5.0, **config})
    try:
        yield made
    finally:
        made.server.close()


def listed(folder: Path, *configs: dict) -> list:
    """Make the tools of a list as verl does."""
    entries = [{"class_name": CLASS, "config": {"type": "native", **config}} for config in configs]
    (folder / "tools.yaml").write_text(yaml.safe_dump({"tools": entries}))
    return load_all_tools(str(folder / "tools.yaml"), None)


def close(tools: list) -> None:
    for server in {tool._server for tool in tools}:
        server.close()


def test_one_entry_of_a_tool_list_brings_all_tools_of_a_server(address, tmp_path):
    tools = listed(tmp_path, address)
    assert [tool.name for tool in tools] == ["add", "put", "show", "roll", "find", "fail", "block"]
    close(tools)


def test_an_entry_brings_the_tools_that_it_names_under_names_of_its_own(address, tmp_path):
    tools = listed(tmp_path, {**address, "tools": ["put", "add"], "prefix": "shop_"}, {**address, "tools": ["add"]})
    assert [tool.name for tool in tools] == ["shop_put", "shop_add", "add"]
    close(tools)


def test_two_tools_of_one_name_are_refused(address, tmp_path):
    with pytest.raises(ValueError, match=r"several tools are called \['add', .*\]; expected one of each: set `prefix`"):
        listed(tmp_path, address, address)


@pytest.mark.parametrize(
    ("config", "error", "message"),
    [
        ({"tools": ["add", "subtract"]}, ValueError, r"has no tools \['subtract'\]; expected some of \['add', "),
        ({"branching": "copy"}, ValueError, "expected one of never, replay"),
        ({"comand": "x"}, TypeError, "comand"),
        ({"command": "x"}, ValueError, "expected one of them"),
    ],
)
def test_an_entry_that_does_not_fit_is_refused(address, config, error, message):
    with pytest.raises(error, match=message):
        McpTools({"type": "native", **address, **config})


def test_a_server_that_is_not_there_is_refused_with_what_to_do():
    with pytest.raises(
        ValueError, match=r"MCP server /no/such/program failed: .*; expected the list of its tools: start it"
    ):
        McpTools({"type": "native", "command": "/no/such/program"})


@pytest.mark.parametrize(
    ("config", "kinds"),
    [
        ({"tools": ["add", "find"]}, {McpTool}),  # both say that they only read
        ({"tools": ["add", "put"]}, {McpSessionTool}),
        ({"tools": ["add", "put"], "stateless": True}, {McpTool}),
        ({"tools": ["add"], "stateless": False}, {McpSessionTool}),
    ],
)
def test_whether_a_session_is_shared_is_what_the_list_says_or_else_the_server(address, config, kinds, caplog):
    with caplog.at_level(logging.WARNING), entry(**address, **config) as made:
        assert {type(tool) for tool in made.tools_of_entry} == kinds
    assert ("leaves do not fork after a call of MCP server" in caplog.text) == (kinds == {McpSessionTool})


def test_the_model_is_shown_all_that_a_schema_says(address):
    with entry(**address, tools=["find"]) as made:
        [find] = made.tools_of_entry
        shown = tool_schema(find)["function"]
    assert shown["description"] == "Find something."
    assert shown["parameters"]["required"] == ["place", "kind", "near"]
    properties = shown["parameters"]["properties"]
    assert properties["place"]["type"] == "object"
    assert properties["place"]["properties"]["city"] == {"type": "string"}
    assert properties["kind"] == {"type": "string", "enum": ["shop", "park"]}
    assert properties["near"] == {"type": "array", "items": {"type": "string"}}
    assert properties["limit"] == {"anyOf": [{"type": "integer"}, {"type": "null"}], "type": ["integer", "null"]}
    assert properties["exact"]["type"] == "boolean"


def typed(schema: dict, **more: object) -> object:
    made = mcp_schema("tool", "does", {"type": "object", "properties": {"x": schema}, **more})
    return made.function.parameters.properties["x"].type


@pytest.mark.parametrize(
    ("schema", "kind"),
    [
        ({"type": "string"}, "string"),
        ({"anyOf": [{"type": "integer"}, {"type": ["string", "null"]}]}, ["integer", "string", "null"]),
        ({"oneOf": [{"const": 1}, {"enum": ["a", True]}]}, ["integer", "string", "boolean"]),
        ({"enum": [1.5, None, {}]}, ["number", "null", "object"]),
        ({"description": "anything"}, ["string", "number", "integer", "boolean", "object", "array", "null"]),
        ({"$ref": "#/$defs/missing"}, "object"),
        ({"$ref": "#/$defs/list"}, "array"),
        ({"$ref": "#/$defs/tree"}, "object"),
    ],
)
def test_every_parameter_has_a_type(schema, kind):
    definitions = {
        "list": {"type": "array"},
        "tree": {"type": "object", "properties": {"child": {"$ref": "#/$defs/tree"}, "title": {"type": "string"}}},
    }
    assert typed(schema, **{"$defs": definitions}) == kind


def test_a_tool_without_parameters_and_one_that_takes_anything_are_taken_too():
    assert mcp_schema("tool", "does", {"type": "object"}).function.parameters.properties == {}
    assert typed(True) == ["string", "number", "integer", "boolean", "object", "array", "null"]


def test_arguments_are_compared_with_the_servers_schema(address):
    with entry(**address, tools=["find"]) as made:
        [find] = made.tools_of_entry
        call = {"place": '{"city": "Rome"}', "kind": "shop", "near": ["x"], "limit": "3", "exact": None}
        assert fitted(find, call) == {"place": {"city": "Rome"}, "kind": "shop", "near": ["x"], "limit": 3}
        with pytest.raises(ValueError, match='got kind="zoo"; expected one of'):
            fitted(find, {**call, "kind": "zoo"})


async def test_calls_without_state_share_a_session_and_branch(address):
    with entry(**address, tools=["add", "fail"], stateless=True) as made:
        tools = made.tools_of_entry
        calls = ["<add>1</add>", "<add>2</add>", "<fail>raise</fail>", "<fail>nothing</fail>", "<add>x</add>"]
        grown = await grow(tools, Wanderer(calls, turns=3, seed=3), 6)
        assert sum(leaf.parent is not None for leaf in grown.leaves) >= 3
        expected = {"1": ("2", "ok"), "2": ("3", "ok"), "nothing": ("", "empty")}
        for leaf in grown.leaves:
            for call in leaf.calls:
                if call.arguments in expected:
                    assert (call.result, call.status) == expected[call.arguments]
                else:
                    assert call.status == "model_error"
        assert len(made.server._sessions) == 1


@pytest.mark.parametrize("kind", [pytest.param("stdio", marks=pytest.mark.slow), "http"])
async def test_leaves_with_sessions_of_their_own_see_nothing_of_each_other_and_do_not_branch(kind, address):
    with entry(**(COMMAND if kind == "stdio" else address), tools=["put", "show"]) as made:
        grown = await grow(made.tools_of_entry, Wanderer(ITEMS, turns=2, seed=3), 3)
        assert [leaf.parent for leaf in grown.leaves] == [None] * 3
        for number, path in enumerate(paths_of(grown)):
            assert grown.results(number) == [path[0], " ".join(path)]
        # A tool that says so beforehand costs no attempt: the missing leaves start at once, after the first result.
        assert grown.limits() == {TOOL_CANNOT_FORK: 6}
        assert made.server._sessions == set()


@pytest.mark.parametrize("kind", [pytest.param("stdio", marks=pytest.mark.slow), "http"])
async def test_sessions_branch_by_replay_and_each_leaf_sees_its_own(kind, address):
    config = COMMAND if kind == "stdio" else address
    with entry(**config, tools=["put", "show"], branching="replay", start_seconds=20.0) as made:
        sessions = made.tools_of_entry[0]._sessions
        grown = await grow(made.tools_of_entry, Wanderer(ITEMS, turns=3, seed=3), 4, config=LOCKSTEP, fork_seconds=20.0)
        assert sum(leaf.parent is not None for leaf in grown.leaves) == 3
        for number, path in enumerate(paths_of(grown)):
            assert grown.results(number) == [" ".join(path[: length + 1]) for length in range(3)]
        assert sessions.by_id == {}
        assert made.server._sessions == set()


async def test_a_session_whose_replay_answers_something_else_does_not_branch(address, caplog):
    with entry(**address, tools=["put", "roll"], branching="replay") as made:
        tools, state = (
            VerlTools({tool.name: tool for tool in made.tools_of_entry}, ToolSettings([], {}, 999, "left")),
            {},
        )
        assert (await tools.execute(ToolCall("put", {"item": "pear"}), state, [])).text == "pear"
        copy = await tools.states.fork(state)
        assert copy is not None
        assert (await tools.execute(ToolCall("put", {"item": "fig"}), copy, [])).text == "pear fig"
        # Both tools of the server are in the leaf's one session.
        assert (await tools.execute(ToolCall("roll", {}), state, [])).status == "ok"
        assert await tools.states.fork(state) is None
        assert "the server isn't determined by its calls" in caplog.text
        assert (await tools.execute(ToolCall("put", {"item": "tea"}), state, [])).text == "pear tea"
        await tools.states.close()
        assert made.server._sessions == set()


@pytest.mark.slow
async def test_a_session_that_dies_fails_its_leaf_alone():
    with entry(**COMMAND, tools=["put", "fail"], branching="replay") as made:
        settings = ToolSettings([], {}, 999, "left")
        tools, one, other = VerlTools({tool.name: tool for tool in made.tools_of_entry}, settings), {}, {}
        for state in (one, other):
            assert (await tools.execute(ToolCall("put", {"item": "pear"}), state, [])).status == "ok"
        told = [await tools.execute(ToolCall("fail", {"how": "die"}), one, [])]
        told.append(await tools.execute(ToolCall("put", {"item": "fig"}), one, []))
        assert [answer.status for answer in told] == ["infrastructure_error"] * 2
        assert await tools.states.fork(one) is None
        assert (await tools.execute(ToolCall("put", {"item": "fig"}), other, [])).text == "pear fig"
        await tools.states.close()
        assert made.server._sessions == set()


@pytest.mark.slow
async def test_a_server_without_sessions_is_a_failure_where_leaves_need_their_own(caplog):
    with http_server("stateless") as (address, _), entry(**address, tools=["put"]) as made:
        tools = VerlTools({"put": made.tools_of_entry[0]}, ToolSettings([], {}, 999, "right"))
        answer = await tools.execute(ToolCall("put", {"item": "pear"}), {}, [])
        assert answer.status == "infrastructure_error"
        assert "state stateless: true" in answer.text
        await tools.states.close()
