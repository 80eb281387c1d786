"""Whether the package `mcp` is there in a version that fits: 1.x has other names, and no `Client`."""

try:
    import mcp
except ModuleNotFoundError as error:
    raise ModuleNotFoundError("MCP servers need the package mcp: pip install 'arpo-verl[mcp]'", name="mcp") from error
if not hasattr(mcp, "Client"):
    raise ImportError(
        "MCP servers need mcp 2 or later, and an older one is installed: pip install 'mcp>=2'", name="mcp"
    )
