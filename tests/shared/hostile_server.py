"""An HTTP server that answers completions with bytes of a test's choice, over a plain socket."""

import contextlib
import json
import socket
import threading
from collections.abc import Iterator
from typing import Any

CARDS = {"data": [{"id": "tiny", "max_model_len": 512}]}


def http(body: bytes, *headers: str, status: str = "200 OK", content_type: str = "application/json") -> bytes:
    """Return an answer with its length."""
    lines = [f"HTTP/1.1 {status}", f"Content-Type: {content_type}", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "Connection: close", "", ""]).encode() + body


def completion(**choice: Any) -> bytes:
    """Return an answer with one choice."""
    return http(json.dumps({"choices": [{"text": "", "finish_reason": "stop", **choice}]}).encode())


@contextlib.contextmanager
def answering(answer: bytes, endless: bytes = b"", cards: Any = CARDS) -> Iterator[str]:
    """Serve `answer` to every completion, then `endless` over and over; yield the URL."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(1 << 16)
            head, _, body = request.partition(b"\r\n\r\n")
            length = next(
                (int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")), 0
            )
            while len(body) < length:
                body += connection.recv(1 << 16)
            if head.startswith(b"GET"):
                connection.sendall(http(json.dumps(cards).encode()))
                return
            connection.sendall(answer)
            while endless:
                connection.sendall(endless)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.close()
