"""Serves a page on this machine alone, and the data that it asks for, as they are at that moment.

Not for a network: it binds to 127.0.0.1, answers no host name but that (a page of elsewhere can't read it by a name
that leads here), and reads the files of the run alone.
"""

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from arpo_verl.record import RecordedStep
from arpo_verl.record.writing import prompt_line
from arpo_verl.viewer.page import deflated, live_page, run_of
from arpo_verl.viewer.sources import Source
from arpo_verl.viewer.summary import summary_of_step, table_of_step

HOST = "127.0.0.1"
_PIECE = re.compile(r"/(?P<kind>step|prompt)-(?P<step>\d+)(-(?P<place>\d+))?")


class RunData:
    """What the files of a run say; a file is read again when it has changed."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self._summaries: dict[Path, tuple[tuple[int, int], dict[str, Any]]] = {}
        self._last: tuple[Path, tuple[int, int], RecordedStep] | None = None
        self._lock = threading.Lock()

    def run(self) -> dict[str, Any]:
        """Return what the page knows of the whole run."""
        with self._lock:
            summaries = [self._summary(step, file) for step, file in self.source.files().items()]
        return run_of(self.source, summaries, is_live=True)

    def piece(self, kind: str, step: int, place: int) -> bytes | None:
        """Return a piece of data; None where there is no such piece.

        Args:
            kind: `step` or `prompt`.
            step: which file.
            place: of the prompt in it.
        """
        file = self.source.files().get(step)
        if file is None:
            return None
        with self._lock:
            found = self._read(step, file)
        if kind == "step":
            return json.dumps(table_of_step(found)).encode()
        return prompt_line(found.prompts[place]) if place < len(found.prompts) else None

    def _summary(self, step: int, file: Path) -> dict[str, Any]:
        state = _state(file)
        if file not in self._summaries or self._summaries[file][0] != state:
            self._summaries[file] = state, summary_of_step(self._read(step, file))
        return self._summaries[file][1]

    def _read(self, step: int, file: Path) -> RecordedStep:
        """Read a file, or return the last one where it is the same."""
        state = _state(file)
        if self._last is None or self._last[:2] != (file, state):
            self._last = file, state, self.source.read(step, file)
        return self._last[2]


def _state(file: Path) -> tuple[int, int]:
    about = file.stat()
    return about.st_mtime_ns, about.st_size


class Handler(BaseHTTPRequestHandler):
    """Answers for the page, `run.json`, and pieces of data."""

    data: RunData
    server_version, sys_version = "arpo-verl", ""

    def do_GET(self) -> None:
        name = (self.headers.get("Host") or "").rsplit(":", 1)[0]
        if name not in (HOST, "localhost"):
            self._answer(403, b"this page answers 127.0.0.1 and localhost alone", "text/plain")
            return
        try:
            code, content, kind = self._content()
        except (OSError, ValueError) as error:
            code, content, kind = 500, str(error).encode(errors="replace"), "text/plain; charset=utf-8"
        self._answer(code, content, kind)

    def _content(self) -> tuple[int, bytes, str]:
        if self.path == "/":
            return 200, live_page(self.data.source), "text/html; charset=utf-8"
        if self.path == "/run.json":
            return 200, json.dumps(self.data.run()).encode(), "application/json"
        found = _PIECE.fullmatch(self.path)
        piece = self.data.piece(found["kind"], int(found["step"]), int(found["place"] or 0)) if found else None
        if piece is None:
            return 404, b"there is no such thing", "text/plain"
        return 200, deflated(piece), "application/octet-stream"

    def _answer(self, code: int, content: bytes, kind: str) -> None:
        self.send_response(code)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cache-Control", "no-store")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""


def open_server(source: Source, port: int = 0) -> ThreadingHTTPServer:
    """Return a server that is bound and does not answer yet; 0 is a free port."""
    handler = type("RunHandler", (Handler,), {"data": RunData(source)})
    return ThreadingHTTPServer((HOST, port), handler)


def serve(source: Source, port: int = 0) -> None:
    """Answer until Ctrl-C.

    Raises:
        OSError: the port is taken.
    """
    with open_server(source, port) as server:
        print(f"http://{HOST}:{server.server_port} shows {source.path} until Ctrl-C", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print()
