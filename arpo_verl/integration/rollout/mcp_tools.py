"""The tools of an MCP server in verl's tool list: one entry brings all of them, or those that it names.

verl 0.9.1 has no MCP of its own any more (`tools/tool_registry.py`: "MCP tool is removed for now").
"""

import dataclasses
import logging
from typing import Any
from uuid import uuid4

from mcp.types import Tool
from verl.tools.base_tool import BaseTool
from verl.tools.schemas import OpenAIFunctionToolSchema, ToolResponse

from arpo_tools import ToolResult, ToolStatus
from arpo_tools.mcp_tools import Address, Limits, McpServer, ServerError
from arpo_tools.mcp_tools.answers import failed
from arpo_tools.mcp_tools.session import Session
from arpo_verl.integration.rollout.mcp_schema import mcp_schema
from arpo_verl.integration.rollout.tools import _options
from arpo_verl.rollout.states import CannotForkError

logger = logging.getLogger(__name__)

BRANCHING = ("never", "replay")


class McpTool(BaseTool):
    """One tool of a server whose calls depend on nothing but their arguments: all leaves share a session."""

    blocks_nothing = True

    def __init__(self, server: McpServer, tool: Tool, name: str) -> None:
        # Not verl's constructor, which prints the schema in every worker.
        self.config: dict[str, Any] = {}
        self.name = name
        self.tool_schema = mcp_schema(name, tool.description or tool.title or tool.name, tool.input_schema)
        self._server = server
        self._remote = tool.name

    async def create(self, instance_id: str | None = None, **kwargs: Any) -> tuple[str, ToolResponse]:
        return instance_id or uuid4().hex, ToolResponse()

    async def execute(
        self, instance_id: str, parameters: dict[str, Any], **kwargs: Any
    ) -> tuple[ToolResponse, float, dict[str, Any]]:
        result = await self._answer(instance_id, parameters)
        return ToolResponse(text=result.text), 0.0, {"status": result.status.value}

    async def _answer(self, instance_id: str, arguments: dict[str, Any]) -> ToolResult:
        return await self._server.call(self._remote, arguments)


@dataclasses.dataclass(eq=False)
class LeafSession:
    """A session that belongs to one leaf, with what has been called in it."""

    session: Session | None = None
    """Opened by the first call."""
    calls: list[tuple[str, dict[str, Any], ToolResult]] = dataclasses.field(default_factory=list)


class McpSessions:
    """The sessions of a server's leaves, by instance id; its tools share them."""

    def __init__(self, server: McpServer) -> None:
        self.server = server
        self.by_id: dict[str, LeafSession] = {}

    def begin(self) -> str:
        """Return the instance id of a new session."""
        instance_id = uuid4().hex
        self.by_id[instance_id] = LeafSession()
        return instance_id

    async def call(self, instance_id: str, name: str, arguments: dict[str, Any]) -> ToolResult:
        """Call a tool in a leaf's session."""
        leaf = self.by_id[instance_id]
        if leaf.session is None:
            try:
                leaf.session = await self.server.open()
            except Exception as error:  # nothing has been called: the next call may try again
                return failed(name, error)
        result = await self.server.call(name, arguments, leaf.session)
        leaf.calls.append((name, arguments, result))
        return result

    async def replayed(self, instance_id: str) -> str:
        """Return the id of a new session in which the same calls have had the same results.

        Raises:
            CannotForkError: one of them had another, or had none.
        """
        known = list(self.by_id[instance_id].calls)
        if (last := next((one for *_, one in known if one.status not in DEFINITE), None)) is not None:
            raise CannotForkError(f"a call has ended as {last.status.value}: what it has changed is not known")
        new = self.begin()
        try:
            for name, arguments, expected in known:
                result = await self.call(new, name, arguments)
                if result != expected:
                    raise CannotForkError(
                        f"a replay of {name!r} with {str(arguments)[:200]} has answered {result.text[:200]!r}; "
                        f"expected {expected.text[:200]!r}: the server isn't determined by its calls"
                    )
        except BaseException:
            await self.close(new)
            raise
        return new

    async def close(self, instance_id: str) -> None:
        """Close a leaf's session."""
        leaf = self.by_id.pop(instance_id, None)
        if leaf is not None and leaf.session is not None:
            await self.server.close_session(leaf.session)


DEFINITE = (ToolStatus.OK, ToolStatus.EMPTY, ToolStatus.MODEL_ERROR)
"""Outcomes after which it is known what a call has done."""


class McpSessionTool(McpTool):
    """One tool of a server that keeps something between calls: each leaf has a session of its own."""

    def __init__(self, sessions: McpSessions, tool: Tool, name: str, branching: str) -> None:
        super().__init__(sessions.server, tool, name)
        self._sessions = sessions
        self.instance_name = f"MCP session {id(sessions)}"
        self.can_fork = branching == "replay"

    async def create(self, instance_id: str | None = None, **kwargs: Any) -> tuple[str, ToolResponse]:
        return self._sessions.begin(), ToolResponse()

    async def _answer(self, instance_id: str, arguments: dict[str, Any]) -> ToolResult:
        return await self._sessions.call(instance_id, self._remote, arguments)

    async def fork(self, instance_id: str) -> str:
        """Return a copy of a session: the protocol has none, so its calls are made again in another one.

        Raises:
            CannotForkError: they have other results, or may not be made again.
        """
        if not self.can_fork:
            raise CannotForkError("branching=never")
        return await self._sessions.replayed(instance_id)

    async def release(self, instance_id: str, **kwargs: Any) -> None:
        await self._sessions.close(instance_id)


class McpTools:
    """An entry of a tool list that stands for several tools, `tools_of_entry`."""

    def __init__(self, config: dict[str, Any], tool_schema: OpenAIFunctionToolSchema | None = None) -> None:
        """Ask the server for its tools.

        Args:
            config: the fields of `Address` and of `Limits`; `tools`, the names of those to take (all); `prefix`,
                before the names that the model is told (none); `stateless`, whether calls depend on their arguments
                alone (what the server says: whether each of the tools is marked as read-only); `branching`, whether
                leaves fork after a call in a session of their own: `never`, or `replay`.
            tool_schema: verl's, which has no place here.

        Raises:
            ValueError: options that don't fit, a server that can't be reached, or a tool that it has not.
            TypeError: an option that there is not.
        """
        options = _options(config)
        names: list[str] | None = options.pop("tools", None)
        prefix, stateless = str(options.pop("prefix", "")), options.pop("stateless", None)
        branching = options.pop("branching", "never")
        if branching not in BRANCHING:
            raise ValueError(f"branching={branching!r} of an MCP server; expected one of {', '.join(BRANCHING)}")
        limits = {one.name: options.pop(one.name) for one in dataclasses.fields(Limits) if one.name in options}
        self.server = McpServer(Address(**options), Limits(**limits))
        self.name = self.server.address.label
        listed = self._chosen(names)
        is_stateless = stateless if stateless is not None else all(map(_is_read_only, listed))
        sessions = McpSessions(self.server)
        if not is_stateless and branching == "never":
            logger.warning(
                "leaves do not fork after a call of MCP server %s, which may keep something between calls; state "
                "stateless: true if it does not, or branching: replay if its calls may be made again",
                self.name,
            )
        self.tools_of_entry: list[BaseTool] = [
            McpTool(self.server, tool, prefix + tool.name)
            if is_stateless
            else McpSessionTool(sessions, tool, prefix + tool.name, branching)
            for tool in listed
        ]

    def _chosen(self, names: list[str] | None) -> list[Tool]:
        try:
            there = {tool.name: tool for tool in self.server.list_tools()}
        except ServerError as error:
            raise ValueError(f"{error}; expected the list of its tools: start it, or correct its address") from error
        missing = [name for name in names or [] if name not in there]
        if missing or not there:
            raise ValueError(
                f"MCP server {self.name} has no tools {missing or 'at all'}; expected some of {sorted(there)}: correct "
                f"`tools`"
            )
        return [there[name] for name in (there if names is None else names)]


def _is_read_only(tool: Tool) -> bool:
    return tool.annotations is not None and tool.annotations.read_only_hint is True
