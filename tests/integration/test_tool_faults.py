"""What a real training run does when its search service fails in the middle: dies, hangs, answers garbage, costs."""

import json
import socketserver
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from quickstart import stop
from runs import LEAVES, PROMPTS, start, train

pytestmark = [pytest.mark.slow, pytest.mark.engine]

TOOLS = """
tools:
  - class_name: arpo_verl.integration.rollout.tools.PythonTool
    config: {type: native}
  - class_name: arpo_verl.integration.rollout.tools.SearchTool
    config:
      type: native
      backend: serper
      base_url: URL
      cache: null
      attempts: 2
      attempt_seconds: 0.3
      total_seconds: 0.8
"""


class Service(socketserver.ThreadingTCPServer):
    """Serper's protocol over the facts of a world, in one of the moods `well`, `dead`, `hanging` and `garbage`."""

    daemon_threads = allow_reuse_address = True

    def __init__(self, world: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        documents = [json.loads(line) for line in (world / "corpus.jsonl").open()]
        self.facts = {document["title"]: document["contents"] for document in documents}
        self.mood = "well"


class Handler(BaseHTTPRequestHandler):
    server: Service

    def do_POST(self) -> None:
        query = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["q"]
        if self.server.mood == "dead":
            self.connection.close()
            return
        if self.server.mood == "hanging":
            time.sleep(2)
            return
        fact = self.server.facts.get(query)
        answer = {"organic": [{"title": query, "link": "http://facts", "snippet": fact}] if fact else []}
        body = b"<html>Bad gateway" if self.server.mood == "garbage" else json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        pass


@contextmanager
def service(world: Path) -> Iterator[Service]:
    server = Service(world)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


def overrides(folder: Path, server: Service, options: str = "") -> list[str]:
    folder.mkdir(exist_ok=True)
    tools = folder / "tools.yaml"
    tools.write_text(TOOLS.replace("URL", f"http://127.0.0.1:{server.server_address[1]}") + options)
    return [
        "algorithm.adv_estimator=arpo",
        f"actor_rollout_ref.rollout.multi_turn.tool_config_path={tools}",
        "data.seed=1",
        # Twice the usual number: a step has to have leaves that do not search.
        f"data.train_batch_size={2 * PROMPTS}",
    ]


def logged(folder: Path) -> dict[int, dict[str, float]]:
    """Return what each step has logged so far."""
    file = folder / "metrics.jsonl"
    entries = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    return {entry["step"]: entry["data"] for entry in entries if entry["step"] > 0}


def run_in_moods(world: Path, folder: Path, server: Service, moods: list[str], words: list[str]) -> tuple[int, str]:
    """Run with the service in each mood until a step more has been logged; return the exit code and the log."""
    child = start(world, folder, *words, SERPER_API_KEY="key")
    try:
        deadline = time.monotonic() + 600
        while child.poll() is None and time.monotonic() < deadline:
            server.mood = moods[min(len(logged(folder)), len(moods) - 1)]
            time.sleep(0.05)
        child.wait(1)
    finally:
        stop(child, child.mark)
    return child.returncode, (folder / "train.log").read_text(errors="replace")


def test_training_goes_on_through_a_service_that_dies_hangs_and_answers_garbage(world, tmp_path):
    with service(world) as server:
        moods = ["well", "dead", "hanging", "garbage"]
        words = overrides(tmp_path, server)
        words += [f"trainer.total_training_steps={len(moods)}", "+arpo.max_infrastructure_fraction=1"]
        code, log = run_in_moods(world, tmp_path, server, moods, words)
    assert code == 0, log[-5000:]
    steps = logged(tmp_path)
    assert sorted(steps) == [1, 2, 3, 4]
    for step in steps.values():
        assert step["arpo/leaves/min"] == step["arpo/leaves/max"] == LEAVES
        assert step["arpo/excluded_fraction"] == step["tools/infrastructure_fraction"]
    assert steps[1]["tools/infrastructure_fraction"] == 0
    # The step after a change of mood may have begun before it.
    failed = sum(step.get("tools/search/status/infrastructure_error", 0) for step in steps.values())
    assert failed > 0
    assert sum(step.get("tools/search/retries", 0) for step in steps.values()) >= failed
    assert sum(step["tools/infrastructure_fraction"] > 0 for step in steps.values()) >= 2


@pytest.mark.nightly
def test_a_run_stops_above_the_share_of_failures_resumes_and_ends_cleanly_at_its_spending_cap(world, tmp_path):
    checkpoints = tmp_path / "checkpoints"
    with service(world) as server:
        words = [
            *overrides(tmp_path, server),
            "trainer.total_training_steps=50",
            "+arpo.max_infrastructure_fraction=0.05",
        ]
        code, log = run_in_moods(world, tmp_path, server, ["well", "hanging"], words)
        assert code != 0
        assert "expected at most arpo.max_infrastructure_fraction=0.05" in log
        stopped = max(logged(tmp_path))
        saved = int((checkpoints / "latest_checkpointed_iteration.txt").read_text())
        assert saved == stopped - 1 >= 1
        assert logged(tmp_path)[stopped]["tools/infrastructure_fraction"] > 0.05

        server.mood = "well"
        cap = f"      max_paid_calls: 60\n      limits_file: {tmp_path / 'limits.sqlite'}\n"
        words = [*overrides(tmp_path, server, cap), "trainer.total_training_steps=50"]
        rest = train(world, tmp_path, *words, SERPER_API_KEY="key")
    log = (tmp_path / "train.log").read_text(errors="replace")
    assert "the paid calls of search are spent" in log
    assert rest[0]["training/global_step"] == stopped
    last = max(logged(tmp_path))
    assert 1 <= last < 50
    assert int((checkpoints / "latest_checkpointed_iteration.txt").read_text()) == last - 1
    assert logged(tmp_path)[last]["tools/search/status/budget"] > 0
