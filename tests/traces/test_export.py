"""The command that exports traces, with the SDK's own exporter, to a file and to a collector in this process."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from evaluated import call, header, samples
from evaluated import write_run as write_evaluation
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from recorded_run import write_run

from arpo_verl import command_line
from arpo_verl.record import RecordedCall, RecordedLeaf, RecordedPrompt, RecordedSegment, RecordedStep, read_steps
from arpo_verl.record.forks import most_telling
from arpo_verl.record.writing import write_step
from arpo_verl.traces import command, names, otlp
from arpo_verl.traces.otlp import SdkSpans, json_line, requests_of
from arpo_verl.traces.sending import endpoint_of, shown, timeout_of
from arpo_verl.traces.spans import SpanSettings, spans_of_prompt

STEPS, PROMPTS = 2, 3


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), steps=STEPS, prompts=PROMPTS)


@pytest.fixture(autouse=True)
def no_variables(monkeypatch) -> None:
    for name in ("ENDPOINT", "TRACES_ENDPOINT", "HEADERS", "TIMEOUT", "COMPRESSION"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)


def export(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        command_line.main([command.NAME, *map(str, words)])
    return int(end.value.code or 0)


def spans_in(lines: str) -> list[list[dict]]:
    """Return the spans of each line of OTLP's JSON."""
    return [
        [span for one in json.loads(line)["resourceSpans"] for scope in one["scopeSpans"] for span in scope["spans"]]
        for line in lines.splitlines()
    ]


def expected(run: Path) -> list[list[str]]:
    """Return the ids of the spans of each prompt of a run."""
    return [
        [f"{span.span_id:016x}" for span in spans_of_prompt(prompt, SpanSettings(step.step, step.began))]
        for step in read_steps(run)
        for prompt in step.prompts
    ]


def test_a_run_is_written_as_a_line_of_json_a_prompt(run, tmp_path, capsys):
    out = tmp_path / "traces.jsonl"
    assert export(run, "--out", out) == 0
    traces = spans_in(out.read_text())
    assert [[span["spanId"] for span in spans] for spans in traces] == expected(run)
    assert capsys.readouterr().out == f"{out}: 6 traces of {sum(map(len, traces))} spans\n"
    for spans in traces:
        assert len({span["traceId"] for span in spans}) == 1 and len(spans[0]["traceId"]) == 32
        assert all(span["parentSpanId"] in {one["spanId"] for one in spans} for span in spans[1:])
        assert int(spans[0]["startTimeUnixNano"]) >= 1_700_000_000 * 10**9
        for span in spans:
            assert span["kind"] == (3 if span["name"].startswith("text_completion") else 1)
    linked = [span for spans in traces for span in spans if "links" in span]
    assert linked and all(len(link["spanId"]) == 16 for span in linked for link in span["links"])
    assert not list(tmp_path.glob("*.draft"))
    first = out.read_bytes()
    assert export(run, "--out", out) == 0 and out.read_bytes() == first, "the same each time"


def test_hostile_texts_are_written_and_read_back(tmp_path):
    hostile = "<script>\x00\x1b[31m\u202e\ud800 \\" + "x" * 10**6
    segment = RecordedSegment(hostile, 3, calls=[RecordedCall(hostile[:40], "ok", arguments=hostile)])
    prompt = RecordedPrompt(hostile[:40], hostile, [segment], [RecordedLeaf("\ud800", segments=[0])])
    line = json_line(SdkSpans("1").of(spans_of_prompt(prompt, SpanSettings(1, 1.0))))
    [[root, *_, call]] = spans_in(line.decode())
    values = {one["key"]: one["value"] for one in call["attributes"]}
    assert values[names.TOOL_ARGUMENTS]["stringValue"] == hostile.replace("\ud800", "\\ud800")
    assert root["name"].startswith("step 1 prompt <script>")


def test_steps_and_the_trees_that_say_most_are_chosen(run, tmp_path):
    out = tmp_path / "traces.jsonl"
    assert export(run, "--out", out, "--step", 2, "--trees", 2) == 0
    found = [spans[0]["name"] for spans in spans_in(out.read_text())]
    step = list(read_steps(run))[1]
    assert found == [f"step 2 prompt {prompt.uid}" for prompt in most_telling(step.prompts, 2)]


def test_the_environment_names_the_service_and_the_command_the_model(run, tmp_path, monkeypatch):
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "wandb.entity=me,wandb.project=arpo")
    out = tmp_path / "traces.jsonl"
    assert export(run, "--out", out, "--model", "qwen", "--without-texts") == 0
    [resource] = json.loads(out.read_text().splitlines()[0])["resourceSpans"]
    attributes = {one["key"]: one["value"]["stringValue"] for one in resource["resource"]["attributes"]}
    assert attributes["wandb.entity"] == "me" and attributes["service.name"] == "arpo-verl"
    text = out.read_text()
    assert '"text_completion qwen"' in text and "number of people" not in text and names.INPUT_MESSAGES not in text


def test_an_evaluation_and_verls_own_rows_are_exported_at_the_time_of_their_file(tmp_path):
    file, out = tmp_path / "evaluation.jsonl", tmp_path / "traces.jsonl"
    write_evaluation(file, header(1, 2), samples("q0", "Paris", "Rome", calls=[call()]))
    assert export(file, "--out", out) == 0
    [spans] = spans_in(out.read_text())
    assert int(spans[0]["startTimeUnixNano"]) == pytest.approx(file.stat().st_mtime * 1e9, abs=1e6)
    assert len(spans) == 1 + 2 * 3
    rows = tmp_path / "4.jsonl"
    rows.write_text(
        json.dumps({"input": "ask", "output": "one", "gts": "1", "score": 1.0, "step": 4, "uid": "a_0_0"}) + "\n"
    )
    assert export(rows, "--out", out) == 0
    assert [span["name"] for span in spans_in(out.read_text())[0]] == [
        "step 4 prompt a",
        "invoke_agent leaf 0",
        "text_completion policy",
    ]


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP, and answers as it is told."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests: list[tuple[str, dict[str, str], ExportTraceServiceRequest]] = []
        self.statuses: list[int] = []
        self.trickles = False
        self.says = b""
        self.has_ended = threading.Event()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self) -> list[str]:
        return [
            span.span_id.hex()
            for _, _, request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]


class Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Content-Encoding") == "gzip":
            body = gzip.decompress(body)
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        if status == 200:
            request = ExportTraceServiceRequest.FromString(body)
            self.server.requests.append((self.path, dict(self.headers), request))
        answer = self.server.says or ExportTraceServiceResponse().SerializeToString()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if self.server.says else "application/x-protobuf")
        self.send_header("Content-Length", "1000" if self.server.trickles else str(len(answer)))
        self.end_headers()
        while self.server.trickles and not self.server.has_ended.wait(0.1):
            self.wfile.write(b"x")
            self.wfile.flush()
        self.wfile.write(answer)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.has_ended.set()
        server.shutdown()
        thread.join()


def test_a_collector_gets_every_span_once_with_the_headers_of_the_variables(run, collector, capsys, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "Authorization=Basic%20cGs6c2sxMQ==,x-mlflow-experiment-id=7")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    assert export(run, "--endpoint", collector.address) == 0
    spans = [one for ids in expected(run) for one in ids]
    assert collector.spans() == spans
    said = capsys.readouterr().out
    assert said == f"{collector.address}/v1/traces: 6 traces of {len(spans)} spans\n"
    for path, headers, _ in collector.requests:
        lower = {name.lower(): value for name, value in headers.items()}
        assert path == "/v1/traces" and lower["content-type"] == "application/x-protobuf"
        assert (lower["authorization"], lower["x-mlflow-experiment-id"]) == ("Basic cGs6c2sxMQ==", "7")


def test_the_address_may_come_from_the_variables_and_a_request_is_tried_again(run, collector, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"{collector.address}/api/public/otel")
    collector.statuses = [503]
    assert export(run, "--step", 1, "--trees", 1) == 0
    assert [path for path, _, _ in collector.requests] == ["/api/public/otel/v1/traces"]


def test_large_traces_are_sent_in_parts(collector, tmp_path):
    segments = [RecordedSegment("x" * 300_000, 1) for _ in range(7)]
    prompt = RecordedPrompt("u", "?", segments, [RecordedLeaf("u_0_0", segments=list(range(7)))])
    write_step(tmp_path / "1.jsonl", RecordedStep(1, 1.0, size=1), [prompt])
    assert export(tmp_path, "--endpoint", collector.address) == 0
    assert len(collector.requests) == 3 and len(collector.spans()) == 9
    sdk = SdkSpans("1").of(spans_of_prompt(prompt, SpanSettings(1, 1.0)))
    many = list(requests_of(sdk * 100))
    assert [span for group in many for span in group] == sdk * 100
    assert max(map(len, many)) <= otlp.MOST_SPANS


@pytest.fixture
def empty_folder(tmp_path, monkeypatch) -> Path:
    """Where the command runs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def failure(capsys, *words: object) -> tuple[int, str]:
    code = export(*words)
    shown_lines = capsys.readouterr()
    assert shown_lines.out == "" and shown_lines.err.count("\n") == 1 and "Traceback" not in shown_lines.err
    return code, shown_lines.err


def test_a_server_that_refuses_ends_the_command_with_its_answer(run, collector, capsys):
    collector.statuses = [200, 401]
    collector.says = b'{"message": "Invalid\\n\\u001b credentials"}'
    code, said = failure(capsys, run, "--endpoint", collector.address)
    assert (
        code == 1
        and "has taken 1 traces whole and not the next one" in said
        and '401 Unauthorized {"message": "Invalid' in said
    )


def test_nobody_at_the_address_is_said_within_the_time(run, capsys, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    with socket.socket() as held:  # bound, so that nobody else is, and listening to nobody
        held.bind(("127.0.0.1", 0))
        began = time.monotonic()
        code, said = failure(capsys, run, "--endpoint", f"http://127.0.0.1:{held.getsockname()[1]}")
    assert code == 1 and "has taken 0 traces" in said and "refused" in said
    assert time.monotonic() - began < 20


@pytest.mark.parametrize("trickles", [True, False])
def test_a_server_that_never_ends_its_answer_does_not_hang_the_command(trickles, run, collector, capsys, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0.3")
    began = time.monotonic()
    if trickles:
        collector.trickles = True
        code, said = failure(capsys, run, "--endpoint", collector.address)
        assert "no answer within 2.9 s" in said
    else:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            code, said = failure(capsys, run, "--endpoint", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "timed out" in said.lower() or "timeout" in said.lower()
    assert code == 1 and time.monotonic() - began < 20


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["RUN"], 2, "expected --out FILE, --endpoint URL or the variable OTEL_EXPORTER_OTLP_ENDPOINT"),
        (["RUN", "--endpoint", "localhost:4318"], 2, "expected http://HOST[:PORT]/v1/traces"),
        (["RUN", "--endpoint", "http://[::1"], 2, "expected http://HOST[:PORT]/v1/traces"),
        (["RUN", "--endpoint", "http://h:99999"], 2, "expected http://HOST[:PORT]/v1/traces"),
        (["RUN", "--out", "a.jsonl", "--trees", "0"], 2, "--trees=0; expected 1 or more"),
        (["RUN", "--out", "a.jsonl", "--step", "9"], 1, "has no step 9; expected one of those that there are, 1 to 2"),
        (["nowhere", "--out", "a.jsonl"], 1, "nowhere is not there"),
        (["EMPTY", "--out", "a.jsonl"], 1, "has no record"),
        (["RUN", "--out", "nowhere/a.jsonl"], 1, "nowhere"),
    ],
)
def test_what_can_not_be_exported_is_said_in_a_line(words, code, said, run, empty_folder, capsys):
    found, error = failure(capsys, *({"RUN": run, "EMPTY": empty_folder}.get(word, word) for word in words))
    assert found == code and said in error and error.startswith("arpo-verl export-traces: ")
    assert list(empty_folder.iterdir()) == []


def test_a_bad_time_out_is_named(run, capsys, monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "soon")
    code, said = failure(capsys, run, "--endpoint", "http://127.0.0.1:1")
    assert code == 2 and "OTEL_EXPORTER_OTLP_TIMEOUT='soon'; expected a positive number of seconds" in said
    assert timeout_of({}) == 10.0
    assert timeout_of({"OTEL_EXPORTER_OTLP_TIMEOUT": "3", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "4"}) == 4.0


def test_a_damaged_step_is_named_and_the_rest_is_exported(tmp_path, capsys):
    write_run(tmp_path, steps=2, prompts=1)
    (tmp_path / "rollouts" / "2.jsonl").write_text("not a record\n")
    assert export(tmp_path, "--out", tmp_path / "t.jsonl") == 0
    assert "left out" in capsys.readouterr().err and len((tmp_path / "t.jsonl").read_text().splitlines()) == 1
    (tmp_path / "rollouts" / "1.jsonl").write_text("not a record\n")
    (tmp_path / "t.jsonl").write_text("before")
    assert export(tmp_path, "--out", tmp_path / "t.jsonl") == 1
    assert "has no prompt that can be read" in capsys.readouterr().err
    assert (tmp_path / "t.jsonl").read_text() == "before" and not list(tmp_path.glob("*.draft"))


@pytest.mark.parametrize("missing", ["opentelemetry.sdk", "opentelemetry.exporter.otlp.proto.http"])
def test_without_the_packages_the_extra_is_named(missing, run, capsys, monkeypatch):
    def find(name: str) -> object:
        if name == missing:
            raise ModuleNotFoundError(name)
        return object()

    monkeypatch.setattr(command, "find_spec", find)
    code, said = failure(capsys, run, "--out", "a.jsonl")
    assert code == 1 and "pip install 'arpo-verl[traces]'" in said


def test_addresses():
    assert endpoint_of("https://h:1", {}) == "https://h:1/v1/traces"
    assert endpoint_of("https://h/otel/v1/traces", {}) == "https://h/otel/v1/traces"
    specific = {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a/x", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://b"}
    assert endpoint_of(None, specific) == "http://a/x"
    assert endpoint_of(None, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://b/"}) == "http://b/v1/traces"
    assert shown("https://me:key@h:1/v1/traces?token=x") == "https://h:1/v1/traces"
