"""What is the model's error and what the tool's: the arguments of a call against the schema, and what a tool raises."""

import json
import logging

import pytest
from verl.tools.function_tool import FunctionTool
from verl.tools.schemas import OpenAIFunctionToolSchema

from arpo_tools import ArgumentError
from arpo_verl.config import ArpoConfig
from arpo_verl.integration.rollout import tools as verl_tools
from arpo_verl.integration.rollout.tools import ToolSettings, VerlTools
from arpo_verl.rollout.calls import NO_LIMIT, CallExecutor
from arpo_verl.rollout.protocols import ToolCall
from arpo_verl.rollout.tree import Leaf


def tool(function, required=("x",), **properties) -> VerlTools:
    parameters = {"type": "object", "properties": properties or {"x": {"type": "string"}}, "required": list(required)}
    described = {"name": "tool", "description": "A tool.", "parameters": parameters}
    schema = OpenAIFunctionToolSchema.model_validate({"type": "function", "function": described})
    return VerlTools({"tool": FunctionTool("tool", function, schema)}, ToolSettings([], {}, 500, "right"))


async def execute(tools: VerlTools, arguments) -> tuple[str, str]:
    answer = await tools.execute(ToolCall("tool", arguments), {}, [])
    return answer.status, answer.text


@pytest.mark.parametrize(
    ("schema", "written", "got"),
    [
        ({"type": "string"}, "a", "a"),
        ({"type": "string"}, 1984, "1984"),
        ({"type": "string"}, 0.5, "0.5"),
        ({"type": "integer"}, 3, 3),
        ({"type": "integer"}, 3.0, 3),
        ({"type": "integer"}, "3", 3),
        ({"type": "integer"}, " 3\n", 3),
        ({"type": "integer"}, "3.0", 3),
        ({"type": "integer"}, 10**30, 10**30),
        ({"type": ["integer", "null"]}, "3.0", 3),
        ({"type": "number"}, 3.0, 3.0),
        ({"type": "number"}, "1e3", 1000.0),
        ({"type": "boolean"}, "true", True),
        ({"type": "boolean"}, "False", False),
        ({"type": "array"}, "[1, 2]", [1, 2]),
        ({"type": "array"}, [1], [1]),
        ({"type": "object"}, '{"a": 1}', {"a": 1}),
        ({"type": ["integer", "string"]}, "3", "3"),
        ({"type": ["integer", "null"]}, None, None),
        ({"type": "string", "enum": ["a", "b"]}, "b", "b"),
        ({"type": "integer", "enum": [1, 2]}, "2", 2),
        # No type of JSON's: verl lets it pass.
        ({"type": "str"}, "a", "a"),
        ({"type": "float"}, 1.5, 1.5),
    ],
    ids=str,
)
async def test_arguments_reach_the_tool_in_their_types(schema, written, got):
    seen = []
    status, _ = await execute(tool(lambda x: seen.append(x) or "done", x=schema), {"x": written})
    assert (status, seen, type(seen[0])) == ("ok", [got], type(got))


@pytest.mark.parametrize(
    ("schema", "written", "said"),
    [
        ({"type": "string"}, None, "'tool' got x=null; expected string."),
        ({"type": "string"}, True, "'tool' got x=true; expected string."),
        ({"type": "string"}, ["a"], """'tool' got x=["a"]; expected string."""),
        ({"type": "string"}, {"a": 1}, """'tool' got x={"a": 1}; expected string."""),
        ({"type": "integer"}, "three", """'tool' got x="three"; expected integer."""),
        ({"type": "integer"}, "", """'tool' got x=""; expected integer."""),
        ({"type": "integer"}, 2.5, "'tool' got x=2.5; expected integer."),
        ({"type": "integer"}, True, "'tool' got x=true; expected integer."),
        ({"type": "number"}, "NaN", """'tool' got x="NaN"; expected number."""),
        ({"type": "number"}, float("inf"), "'tool' got x=Infinity; expected number."),
        ({"type": "boolean"}, 1, "'tool' got x=1; expected boolean."),
        ({"type": "array"}, "a, b", """'tool' got x="a, b"; expected array."""),
        ({"type": ["integer", "boolean"]}, "x", """'tool' got x="x"; expected integer or boolean."""),
        ({"type": "string", "enum": ["a", "b"]}, "c", """'tool' got x="c"; expected one of ["a", "b"]."""),
        ({"type": "integer"}, "[" * 100_000, "; expected integer."),
    ],
    ids=lambda value: str(value)[:30],
)
async def test_arguments_of_another_type_are_the_models_error_and_never_reach_the_tool(schema, written, said):
    seen = []
    status, text = await execute(tool(seen.append, x=schema), {"x": written})
    assert (status, seen) == ("model_error", [])
    assert text.startswith("Error: ")
    assert text.endswith(said)


@pytest.mark.parametrize("arguments", [{}, {"y": "a"}, {"x": "a", "y": "b"}, {"X": "a"}], ids=str)
async def test_missing_and_unknown_names_are_the_models_error(arguments):
    status, text = await execute(tool(lambda x: "done"), arguments)
    assert status == "model_error"
    assert text == f"Error: 'tool' got the arguments {sorted(arguments)}; expected x."


async def test_null_for_what_may_be_left_out_leaves_it_out():
    tools = tool(lambda x, k=3: f"{x * k}", x={"type": "integer"}, k={"type": "integer"})
    assert await execute(tools, {"x": 2, "k": None}) == ("ok", "6")


async def test_the_text_of_a_tag_is_read_in_the_type_of_its_parameter():
    tools = tool(lambda x: f"{x + 1}", x={"type": "integer"})
    assert await execute(tools, "41") == ("ok", "42")
    assert await execute(tools, "many") == ("model_error", """Error: 'tool' got x="many"; expected integer.""")


INSIDE = {
    "JSONDecodeError": lambda x: json.loads("<html>502</html>"),
    "KeyError": lambda x: {"results": []}["hits"],
    "TypeError": lambda x: len(None),
    "UnicodeDecodeError": lambda x: b"\xff".decode(),
    "UnicodeEncodeError": lambda x: "\xe9".encode("ascii"),
    "ValueError": lambda x: int("502 Bad Gateway"),
    "IndexError": lambda x: [][0],
    "AttributeError": lambda x: None.text,
    "ZeroDivisionError": lambda x: 1 // 0,
    "OverflowError": lambda x: 2.0**5000,
    "AssertionError": lambda x: (_ for _ in ()).throw(AssertionError("no")),
    "ExceptionGroup": lambda x: (_ for _ in ()).throw(RuntimeError("several")),
}


@pytest.mark.parametrize("name", INSIDE)
async def test_what_is_raised_inside_a_tool_is_its_failure_and_logged_once_with_its_traceback(name, caplog):
    verl_tools._logged.clear()
    tools = tool(INSIDE[name])
    with caplog.at_level(logging.ERROR):
        for text in ("a", "b", "c"):
            status, said = await execute(tools, {"x": text})
            assert status == "infrastructure_error"
            assert said.startswith("Error executing tool 'tool': ")
    assert len(caplog.records) == 1
    assert "Traceback" in caplog.text
    assert "test_call_arguments.py" in caplog.text
    assert "arpo_tools.ArgumentError" in caplog.text


async def test_failures_of_different_kinds_are_each_logged(caplog):
    verl_tools._logged.clear()

    def act(x: str):
        if x == "a":
            raise ValueError("one place")
        raise ValueError("another")

    tools = tool(act)
    with caplog.at_level(logging.ERROR):
        for text in "abab":
            await execute(tools, {"x": text})
    assert len(caplog.records) == 2


async def test_the_log_of_a_failure_has_no_credentials(caplog):
    verl_tools._logged.clear()

    def act(x: str):
        raise ConnectionError("GET https://me:hunter22@host/x?api_key=4711deadbeef failed")

    with caplog.at_level(logging.ERROR):
        _, said = await execute(tool(act), {"x": "https://me:hunter22@host"})
    for secret in ("hunter22", "4711deadbeef"):
        assert secret not in caplog.text + said


async def test_an_argument_error_is_the_models_and_neither_logged_nor_tried_again(caplog):
    calls = []

    def act(x: str):
        calls.append(x)
        raise ArgumentError("there is no month 13")

    leaf = Leaf(number=0, path="0", request_id="r")
    executor = CallExecutor(tool(act), ArpoConfig(infrastructure_retries=2), NO_LIMIT)
    with caplog.at_level(logging.WARNING):
        [answer], [record] = await executor.execute(leaf, [ToolCall("tool", {"x": "13"})])
    assert answer.text == "Error executing tool 'tool': there is no month 13"
    assert (record.status, record.retries, len(calls), caplog.records) == ("model_error", 0, 1, [])


async def test_a_failure_inside_a_tool_is_tried_again_and_marks_the_leaf_if_it_stays(monkeypatch):
    monkeypatch.setattr("arpo_verl.rollout.calls.FIRST_RETRY_SECONDS", 0.01)
    replies = iter(["<html>", '"good"', *["<html>"] * 3])
    executor = CallExecutor(tool(lambda x: json.loads(next(replies))), ArpoConfig(infrastructure_retries=2), NO_LIMIT)
    leaf = Leaf(number=0, path="0", request_id="r")
    [answer], [record] = await executor.execute(leaf, [ToolCall("tool", {"x": "a"})])
    assert (answer.text, record.status, record.retries) == ("good", "ok", 1)
    [answer], [record] = await executor.execute(leaf, [ToolCall("tool", {"x": "a"})])
    assert (record.status, record.retries) == ("infrastructure_error", 2)
