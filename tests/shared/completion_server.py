"""An OpenAI-compatible server over real HTTP, on a thread of its own: a model that knows the tiny world, and faults.

What it writes depends on the prompt's tokens and the seed alone. It uses a tool, then answers with what the tool said.
"""

import asyncio
import contextlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from arpo_verl.tiny_world.model import END, make_tokenizer

GARBAGE, HANG, CUT = "garbage", "hang", "cut"
"""Faults beside HTTP statuses."""


@dataclass
class ModelServer:
    """What a test may change and see while the server runs."""

    url: str = ""
    models: tuple[str, ...] = ("tiny",)
    fault: Callable[[int, dict[str, Any]], int | str | None] = lambda number, body: None
    """From a request's number, counted from 0, and its body to what goes wrong with it."""
    delay_seconds: float = 0.0
    gives_token_ids: bool = True
    keeps_stop: bool = True
    """False is a plain OpenAI server: the stop string is cut off and not named."""
    context_length: int | None = 512
    key: str | None = None
    headers: dict[str, str] = field(default_factory=dict)
    """The headers of answers with an error."""
    requests: list[dict[str, Any]] = field(default_factory=list)
    """The bodies of the requests for completions."""


class _Handler:
    def __init__(self, server: ModelServer) -> None:
        self._server = server
        self._tokenizer = make_tokenizer()

    async def models(self, request: web.Request) -> web.Response:
        if problem := self._refusal(request):
            return problem
        cards = [{"id": model, "max_model_len": self._server.context_length} for model in self._server.models]
        return web.json_response({"data": cards})

    async def completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        number = len(self._server.requests)
        self._server.requests.append(body)
        if problem := self._refusal(request):
            return problem
        await asyncio.sleep(self._server.delay_seconds)
        fault = self._server.fault(number, body)
        if fault == HANG:
            await asyncio.sleep(3600)
        if fault == CUT:
            assert request.transport is not None
            request.transport.abort()
        if fault == GARBAGE:
            return web.Response(text="<html>Bad gateway</html>")
        if isinstance(fault, int):
            error = {"error": {"message": f"fault {fault}"}}
            return web.json_response(error, status=fault, headers=self._server.headers)
        return web.json_response({"choices": [self._choice(body)]})

    def _refusal(self, request: web.Request) -> web.Response | None:
        if self._server.key and request.headers.get("Authorization") != f"Bearer {self._server.key}":
            return web.json_response({"error": {"message": "who are you?"}}, status=401)
        return None

    def _choice(self, body: dict[str, Any]) -> dict[str, Any]:
        text = written(self._tokenizer.decode(body["prompt"]), body.get("seed", 0), is_native="stop" not in body) + END
        stop = next((one for one in body.get("stop", []) if one in text), None)
        ended = stop or END
        text = text[: text.index(ended) + len(ended)]
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        is_cut = len(ids) > body["max_tokens"]
        ids = ids[: body["max_tokens"]]
        choice = {"index": 0, "finish_reason": "length" if is_cut else "stop", "text": self._tokenizer.decode(ids)}
        if self._server.gives_token_ids:
            choice["token_ids"] = ids
        if self._server.keeps_stop:
            choice["stop_reason"] = None if is_cut else stop
        elif not is_cut:
            choice["text"] = choice["text"].removesuffix(ended)
        return choice


def written(context: str, seed: int, is_native: bool) -> str:
    """Return the model's turn: a call for a question, an answer for a result; a third of the seeds guess."""
    question, response = re.fullmatch(r".*<\|user\|>(.*)\?<\|im_end\|><\|assistant\|>(.*)", context, re.S).groups()
    results = re.findall(r"<result>\n(.*?)\n</result>|<\|tool\|>(.*?)<\|im_end\|>", response, re.S)
    if results or seed % 3 == 2:
        said = "".join(results[-1]).split()[-1:] if results else []
        return f"<answer>\\boxed{{{said[0] if said else 0}}}</answer>"
    tool, parameter = ("python", "code") if question[0].isdigit() else ("search", "query")
    if is_native:
        call = json.dumps({"name": tool, "arguments": {parameter: question}})
        return f"<tool_call>\n{call}\n</tool_call>"
    return f"<{tool}>{question}</{tool}>"


@contextlib.contextmanager
def serving(port: int = 0, **settings: Any) -> Iterator[ModelServer]:
    """Run the server; other keyword arguments are fields of `ModelServer`."""
    server = ModelServer(**settings)
    loop = asyncio.new_event_loop()
    ready, ended = threading.Event(), asyncio.Event()

    async def serve() -> None:
        handler = _Handler(server)
        app = web.Application()
        app.router.add_get("/v1/models", handler.models)
        app.router.add_post("/v1/completions", handler.completions)
        runner = web.AppRunner(app, shutdown_timeout=0.01)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port, reuse_address=True).start()
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        ready.set()
        await ended.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),))
    thread.start()
    try:
        assert ready.wait(20)
        yield server
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join()
        loop.close()
