"""Tools of a server that speaks the Model Context Protocol (extra `mcp`)."""

from arpo_tools.mcp_tools import installed as _installed  # noqa: F401  says what to install, before the others fail
from arpo_tools.mcp_tools.address import Address, Limits
from arpo_tools.mcp_tools.server import McpServer
from arpo_tools.mcp_tools.session import ServerError

__all__ = ["Address", "Limits", "McpServer", "ServerError"]
