"""An MCP server as users write them, in a process of its own: `python mcp_world.py stdio`, or `http PORT [MOOD]`.

Moods: `stateless` gives no sessions, `locked` refuses the key, `garbage` answers with a page, `busy` with errors.
"""

import os
import sys
import time
from typing import Literal

from mcp.server.mcpserver import Context, MCPServer
from mcp.types import ImageContent, ToolAnnotations
from pydantic import BaseModel

world = MCPServer("world")
READS = ToolAnnotations(readOnlyHint=True)
baskets: dict[str, list[str]] = {}


def session_of(ctx: Context) -> str:
    request = ctx.request_context.request
    return "" if request is None else request.headers.get("mcp-session-id", "")


class Place(BaseModel):
    """Where something is."""

    city: str
    floor: int = 0


@world.tool(annotations=READS)
def add(a: int, b: int = 1) -> str:
    """Add two numbers."""
    return str(a + b)


@world.tool()
def put(item: str, ctx: Context) -> str:
    """Put an item into the basket, and show what is in it."""
    basket = baskets.setdefault(session_of(ctx), [])
    basket.append(item)
    return " ".join(basket)


@world.tool()
def show(ctx: Context) -> str:
    """Show what is in the basket."""
    return " ".join(baskets.get(session_of(ctx), []))


@world.tool()
def roll(ctx: Context) -> str:
    """Never the same twice."""
    return os.urandom(8).hex()


@world.tool(annotations=READS)
def find(
    place: Place, kind: Literal["shop", "park"], near: list[str], limit: int | None = None, exact: bool = False
) -> str:
    """Find something."""
    return f"{kind} in {place.city}, floor {place.floor}, near {', '.join(near)}, {limit}, {exact}"


@world.tool(annotations=READS)
def fail(how: Literal["raise", "die", "hang", "huge", "image", "nothing", "garbage"]) -> object:
    """Do something wrong."""
    if how == "raise":
        raise ValueError("there is no such shop")
    if how == "die":
        os._exit(3)
    if how == "hang":  # the server goes on
        time.sleep(60)
    if how == "huge":
        return "x" * 30_000_000
    if how == "image":
        return ImageContent(type="image", data="aGk=", mimeType="image/png")
    if how == "garbage":
        print("this is no JSON, and no answer", flush=True)
        os._exit(3)
    return ""


@world.tool(annotations=READS)
async def block(seconds: float) -> str:
    """Hold up the whole server."""
    time.sleep(seconds)
    return "late"


def serve_http(port: int, mood: str) -> None:
    import uvicorn
    from starlette.middleware import Middleware
    from starlette.responses import HTMLResponse, JSONResponse

    class Mood:
        """Answers instead of the server."""

        def __init__(self, app) -> None:
            self.app = app

        async def __call__(self, scope, receive, send) -> None:
            answers = {
                "locked": JSONResponse({"error": "no key"}, 401),
                "garbage": HTMLResponse("<html>Welcome</html>"),
                "busy": HTMLResponse("Bad gateway", 502),
            }
            answer = answers.get(mood) if scope["type"] == "http" else None
            await (self.app(scope, receive, send) if answer is None else answer(scope, receive, send))

    app = world.streamable_http_app(stateless_http=mood == "stateless", json_response=mood == "json")
    app.user_middleware.append(Middleware(Mood))
    uvicorn.run(app, port=port, log_level="error", lifespan="on")


if __name__ == "__main__":
    if sys.argv[1] == "stdio":
        world.run("stdio")
    else:
        serve_http(int(sys.argv[2]), sys.argv[3] if len(sys.argv) > 3 else "")
