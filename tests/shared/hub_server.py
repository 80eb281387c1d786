"""A Hugging Face Hub of one small dataset on localhost: as much of its API as loading a dataset asks for."""

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NAME = "owner/small"
ROWS = [{"question": f"What is {number} + 1?", "answer": f"Count.\n#### {number + 1}"} for number in range(3)]
_CARD = """---
configs:
- config_name: main
  data_files:
  - {split: test, path: test.jsonl}
- config_name: other
  data_files:
  - {split: test, path: other.jsonl}
---
"""
_FILES = {
    "README.md": _CARD.encode(),
    "test.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
    "other.jsonl": (json.dumps(ROWS[0]) + "\n").encode(),
}
_COMMIT = "a" * 40


class _Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        api, files = f"/api/datasets/{NAME}", f"/datasets/{NAME}/resolve/"
        if path == api or path.startswith(f"{api}/revision/"):
            siblings = [{"rfilename": name} for name in _FILES]
            self._reply(200, {"id": NAME, "sha": _COMMIT, "private": False, "tags": [], "siblings": siblings})
        elif path.startswith(f"{api}/tree/"):
            names = _FILES.items()
            self._reply(200, [{"type": "file", "path": name, "size": len(b), "oid": _etag(b)} for name, b in names])
        elif path.startswith(files) and (content := _FILES.get(path.removeprefix(files).partition("/")[2])) is not None:
            self._reply(200, content, {"ETag": f'"{_etag(content)}"', "X-Repo-Commit": _COMMIT})
        else:
            self._reply(404, {}, {"X-Error-Code": "EntryNotFound" if path.startswith(files) else "RepoNotFound"})

    do_HEAD = do_GET

    def _reply(self, status: int, body: object, headers: Mapping[str, str] = {}) -> None:
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def _etag(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


@contextlib.contextmanager
def hub() -> Iterator[str]:
    """Yield the address to set as HF_ENDPOINT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
