"""A server that a run starts: it is waited for, watched, and gone when the run is, whatever way that ended."""

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from processes import assert_gone, descendants, is_gone

from arpo_verl.evaluation.run.local_server import ServerEnded, free_port, local_server

SERVE = """
import subprocess, sys
from http.server import HTTPServer, BaseHTTPRequestHandler

class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

subprocess.Popen([sys.executable, "-c", "import time; time.sleep(1000)"])  # as vLLM has its engine
print("serving", flush=True)
HTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""
HOLD = """
import asyncio, os, sys, time
from pathlib import Path
from arpo_verl.evaluation.run.local_server import free_port, local_server
port = free_port()
with local_server([sys.executable, sys.argv[1], str(port)], Path(sys.argv[2]), os.environ, port) as server:
    asyncio.run(server.wait_until_healthy(60))
    print("healthy", flush=True)
    time.sleep(1000)
"""


def command(folder: Path, program: str, *words: str) -> list[str]:
    script = folder / "program.py"
    script.write_text(program)
    return [sys.executable, str(script), *words]


def test_a_server_is_waited_for_and_ends_with_all_its_processes(tmp_path):
    before, port = descendants(), free_port()
    words = command(tmp_path, SERVE, str(port))
    with local_server(words, tmp_path / "server.log", os.environ, port) as server:
        asyncio.run(server.wait_until_healthy(60))
        server.expect_running()
        started = descendants() - before
        assert len(started) == 3  # the supervisor, the server, and the server's own child
    assert_gone(*started)
    assert "serving" in (tmp_path / "server.log").read_text()


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_takes_its_server_with_it(tmp_path, end):
    words = command(tmp_path, SERVE)
    run = subprocess.Popen([sys.executable, "-c", HOLD, words[1], str(tmp_path / "server.log")], stdout=subprocess.PIPE)
    with run:
        assert run.stdout.readline() == b"healthy\n"
        started = descendants(run.pid)
        assert len(started) == 3 and not any(map(is_gone, started))
        run.send_signal(end)
    assert_gone(*started)


def test_a_server_that_ends_by_itself_is_reported_with_its_log(tmp_path):
    words = command(tmp_path, "print('out of memory'); raise SystemExit(3)")
    with local_server(words, tmp_path / "server.log", os.environ, free_port()) as server:
        with pytest.raises(ServerEnded, match=r"has ended by itself(?s:.)*out of memory"):
            asyncio.run(server.wait_until_healthy(60))
        with pytest.raises(ServerEnded, match="has ended by itself"):
            asyncio.run(server.watch())


def test_a_server_that_does_not_answer_is_given_up(tmp_path):
    words = command(tmp_path, "import time; time.sleep(1000)")
    is_given_up = pytest.raises(ServerEnded, match="did not answer within 1 s")
    with local_server(words, tmp_path / "server.log", os.environ, free_port()) as server, is_given_up:
        asyncio.run(server.wait_until_healthy(1))
