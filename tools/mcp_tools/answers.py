"""What an MCP server answers, as results of a tool."""

import json
from typing import Any

from mcp import MCPError
from mcp.types import CallToolResult
from mcp_types import INVALID_PARAMS

from arpo_tools.redaction import redact
from arpo_tools.tool import ToolResult, ToolStatus


def answered(result: CallToolResult) -> ToolResult:
    """Return the text of an answer. What a tool of a server reports as its error is for the model to read
    (specification, Server features, Tools, Error handling)."""
    text = "\n".join(filter(None, map(_text, result.content)))
    if not text and result.structured_content is not None:
        text = json.dumps(result.structured_content, ensure_ascii=False)
    if result.is_error:
        return ToolResult(text or "Error: the tool failed without a word.", ToolStatus.MODEL_ERROR)
    return ToolResult(text, ToolStatus.OK if text else ToolStatus.EMPTY)


def _text(block: Any) -> str:
    """Return a block of content as text; what is none, such as an image, is named."""
    if block.type == "text":
        return str(block.text)
    if block.type == "resource" and hasattr(block.resource, "text"):
        return str(block.resource.text)
    if block.type == "resource_link":
        return f"[{block.name}: {block.uri}]"
    kind = getattr(block, "mime_type", None) or getattr(getattr(block, "resource", None), "mime_type", None)
    return f"[{kind or block.type}, which can't be shown as text]"


def failed(name: str, error: Exception) -> ToolResult:
    """Return what is told of a call that has no answer."""
    status = getattr(error, "status", ToolStatus.INFRASTRUCTURE_ERROR)
    if isinstance(error, MCPError) and error.code == INVALID_PARAMS:
        status = ToolStatus.MODEL_ERROR
    said = redact(str(error)[:2000]) or type(error).__name__
    return ToolResult(f"Error: '{name}': {said}", status)
