"""Run model-written Python on a server that speaks SandboxFusion's HTTP API, instead of on this machine.

For machines that can't isolate programs, and for those who don't want them beside the training. The server decides what
a program may do and which libraries it finds; here are the request, its retries, and the results of the local tool.
What a program prints, and how it ended, are the server's word. Sessions that keep variables are not offered.
"""

import asyncio
import inspect
import json
from dataclasses import dataclass, field
from typing import Any

import aiohttp
import stamina

from arpo_tools.http.service import url_at
from arpo_tools.redaction import Secrets, is_web_url, redact, without_credentials
from arpo_tools.sandbox import program_text
from arpo_tools.sandbox.libraries import DESCRIPTION, libraries_sentence
from arpo_tools.sandbox.program import IMPORT_EXIT, LIMIT_EXIT
from arpo_tools.tool import ToolResult, ToolStatus

_RETRIED = frozenset({429, 502, 503, 504})
"""HTTP statuses of a server that is busy or restarting; SandboxFusion's gateway answers 504 when its queue is long."""
_MOST_BYTES = 16 << 20
"""Size of an answer; the tool shows far less."""

# Reads the text, and shows the last expression and the model's own frames only, as the local tool does.
_PROGRAM = """
import ast, sys, traceback
def parsed(source):
    errors = []
    for program in [source, *likely_programs(source)]:
        try:
            return compile(program, "<python>", "exec", ast.PyCF_ONLY_AST)
        except SyntaxError as error:
            errors.append(error.with_traceback(None))
    raise errors[:2][-1]
def run(source):
    names = {"__name__": "__main__"}
    try:
        body = parsed(source).body
        last = ast.Expression(body.pop().value) if body and isinstance(body[-1], ast.Expr) else None
        exec(compile(ast.Module(body, []), "<python>", "exec"), names)
        if last is not None:
            sys.displayhook(eval(compile(last, "<python>", "eval"), names))
    except Exception as error:
        frames = error.__traceback__.tb_next if error.__traceback__ else None
        sys.stdout.flush()
        traceback.print_exception(type(error), error, frames)
        sys.exit(%d if isinstance(error, MemoryError) else %d if isinstance(error, ImportError) else 1)
run(%r)
"""


class RemoteError(Exception):
    """The server didn't run the program: it could not be reached, refused, failed, or answered something else.

    The text is redacted, because it is shown to the model and logged with each retry.
    """


class _TransientError(RemoteError):
    """The server is busy, restarting, or out of reach: another attempt may help."""


@dataclass(frozen=True)
class RemotePython:
    """A `Tool` that sends each call to `<base_url>/run_code`; nothing is kept from call to call."""

    base_url: str = field(repr=False)
    """The server's address, for instance `http://sandbox:8080`; a user name and password in it are never shown."""
    name: str = "python"
    timeout_seconds: float = 5.0
    """Wall-clock limit of one call, which the server enforces."""
    memory_mb: int = 1024
    """Memory limit of one call, which the server enforces, in MB."""
    max_output_chars: int = 10_000
    """Characters that the model sees at most; what is printed beyond is dropped, and a cut is marked."""
    answer_seconds: float = 30.0
    """How long, beyond `timeout_seconds`, one attempt waits for the server, whose calls may have to queue."""
    attempts: int = 3
    """How often a call is sent before a server that is busy or can't be reached counts as broken."""
    libraries: tuple[str, ...] = ()
    """What the server's Python has beside the standard library, for the model to be told; it is not checked."""

    def __post_init__(self) -> None:
        """
        Raises:
            ValueError: `base_url` is not a URL of http or https, or a limit is not positive.
        """
        if not is_web_url(self.base_url):
            shown = without_credentials(self.base_url)
            raise ValueError(f"python tool: base_url={shown!r}; expected http://... or https://...: change it")
        for limit in ("timeout_seconds", "memory_mb", "max_output_chars", "answer_seconds", "attempts"):
            if not getattr(self, limit) > 0:
                raise ValueError(f"python tool: {limit}={getattr(self, limit)}; expected a positive number: change it")

    @property
    def description(self) -> str:
        """The description of the tool for a model, with the libraries if they are known."""
        return f"{DESCRIPTION} {libraries_sentence(self.libraries)}" if self.libraries else DESCRIPTION

    async def run(self, text: str) -> ToolResult:
        """Run `text` as a program and return what it printed. Never raises but for cancellation."""
        if not text.strip():
            return ToolResult("Error: no code was given.", ToolStatus.MODEL_ERROR)
        try:
            return self._result(await self._run_on_server(text.encode("utf-8", "replace").decode()))
        except RemoteError as error:
            return ToolResult(f"Error: {error}", ToolStatus.INFRASTRUCTURE_ERROR)

    async def _run_on_server(self, source: str) -> dict[str, Any]:
        """Return what the server says about a program.

        Raises:
            RemoteError: nothing that can be used, after every attempt that is worth it.
        """
        request = {
            "code": inspect.getsource(program_text) + _PROGRAM % (LIMIT_EXIT, IMPORT_EXIT, source),
            "language": "python",
            "stdin": "",
            "compile_timeout": self.timeout_seconds,
            "run_timeout": self.timeout_seconds,
            "memory_limit_MB": self.memory_mb,
            "files": {},
            "fetch_files": [],
        }
        timeout = aiohttp.ClientTimeout(total=self.timeout_seconds + self.answer_seconds)
        async with aiohttp.ClientSession(timeout=timeout) as session:
            retries = stamina.retry_context(on=_TransientError, attempts=self.attempts, timeout=None, wait_max=5.0)
            async for attempt in retries:
                with attempt:
                    return await self._post(session, request)
        raise RemoteError("no attempt was made")

    async def _post(self, session: aiohttp.ClientSession, request: dict[str, Any]) -> dict[str, Any]:
        target = url_at(self.base_url, "/run_code")
        url = without_credentials(target)
        try:
            async with session.post(target, json=request, allow_redirects=False) as response:
                body = await _read_body(response)
        except asyncio.TimeoutError:
            raise RemoteError(f"{url} did not answer within {self.timeout_seconds + self.answer_seconds:g} s") from None
        except (aiohttp.ClientError, OSError) as error:
            raise _TransientError(self._redact(f"{url} can't be reached: {error}")) from None
        except ValueError as error:  # a URL that can't be sent, which the library would show whole
            raise RemoteError(self._redact(f"{url} can't be asked: {error}: check base_url")) from None
        # Redacted before it is cut, which could leave half of a secret that is not recognised.
        shown = self._redact(body[:20_000].decode("utf-8", "replace"))[:200]
        if response.status in _RETRIED:
            raise _TransientError(f"{url} answered {self.attempts} times HTTP {response.status}: {shown}")
        if not 200 <= response.status < 300:
            raise RemoteError(f"{url} answered HTTP {response.status}: {shown}; expected 200: check base_url")
        try:
            answer = json.loads(body)
        except (ValueError, RecursionError):
            answer = None
        if not isinstance(answer, dict) or "status" not in answer:
            raise RemoteError(f"{url} answered {shown!r}; expected SandboxFusion's JSON: check base_url")
        return answer

    @property
    def _secrets(self) -> Secrets:
        return Secrets.of_service(self.base_url)

    def _redact(self, text: str) -> str:
        return redact(text, self._secrets)

    def _result(self, answer: dict[str, Any]) -> ToolResult:
        """
        Raises:
            RemoteError: the server says that it failed itself, or nothing about the program.
        """
        program = answer.get("run_result")
        if answer["status"] == "SandboxError" or not isinstance(program, dict) or program.get("status") == "Error":
            raise RemoteError(f"the sandbox failed: {self._redact(str(answer.get('message')))[:500]}")
        text = f"{program.get('stdout') or ''}{program.get('stderr') or ''}".rstrip()
        # JSON can bring lone surrogates, which no tokenizer takes.
        text = self._secrets.redact_content(text.encode("utf-8", "replace").decode())
        is_cut = len(text) > self.max_output_chars
        if is_cut:
            text = text[: self.max_output_chars] + "\n...(output cut)"
        if program.get("status") == "TimeLimitExceeded":
            note = f"TimeoutError: the call took longer than {self.timeout_seconds:g} s"
            return ToolResult(f"{text}\n{note}".lstrip(), ToolStatus.TIMEOUT)
        code = program.get("return_code")
        if is_cut or code == LIMIT_EXIT:
            return ToolResult(text, ToolStatus.LIMIT)
        if code != 0:
            note = libraries_sentence(self.libraries) if code == IMPORT_EXIT and self.libraries else ""
            message = text or f"Error: the process ended with code {code}"
            return ToolResult(f"{message}\n{note}".rstrip(), ToolStatus.MODEL_ERROR)
        return ToolResult(text, ToolStatus.OK) if text else ToolResult("(no output)", ToolStatus.EMPTY)


async def _read_body(response: aiohttp.ClientResponse) -> bytes:
    """Return the body.

    Raises:
        RemoteError: it is too long.
    """
    body = bytearray()
    async for part in response.content.iter_chunked(1 << 16):
        body += part
        if len(body) > _MOST_BYTES:
            raise RemoteError(f"the answer is longer than {_MOST_BYTES >> 20} MB, and its program not to be trusted")
    return bytes(body)
