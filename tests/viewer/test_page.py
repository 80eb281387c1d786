"""What the viewer's page is made of: summaries by hand, data that can't end their element, and the server."""

import base64
import json
import re
import threading
import urllib.error
import urllib.request
import zlib
from html.parser import HTMLParser
from pathlib import Path

import pytest
from evaluated import call, header, samples
from evaluated import write_run as write_evaluation
from recorded_run import write_run

from arpo_verl import command_line
from arpo_verl.record import RecordedCall, RecordedLeaf, RecordedPrompt, RecordedSegment, RecordedStep
from arpo_verl.record.writing import write_step
from arpo_verl.rollout.tree import Decision, Refusal
from arpo_verl.viewer import page
from arpo_verl.viewer.page import page_of
from arpo_verl.viewer.server import open_server
from arpo_verl.viewer.sources import Source, source_of
from arpo_verl.viewer.summary import row_of_prompt, spans_of, summary_of_step

STATIC = Path(page.__file__).parent / "static"
HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(1)>\u202e\u0007"

CALL = RecordedCall("search", "ok", seconds=2.0, arguments="a", started=3.0, waited=0.5)
FAILED = RecordedCall("python", "model_error", seconds=0.25, started=9.0)
PROMPT = RecordedPrompt(
    uid="u",
    text="<s>How many?",
    special=[(0, 3)],
    segments=[
        RecordedSegment("one", 10, times=(0.0, 3.0), waited=1.0, watched=[0.5, 1.5]),
        RecordedSegment("found", 20, is_sampled=False, calls=[CALL]),
        RecordedSegment("two", 30, times=(5.5, 9.0)),
        RecordedSegment("three", 40, times=(5.5, 7.0)),
        RecordedSegment("failed", 5, is_sampled=False, calls=[FAILED]),
    ],
    leaves=[
        RecordedLeaf(
            "u_0_0",
            0,
            [0, 1, 2, 4],
            1.0,
            stop_reason="completed",
            decisions=[Decision(1, "coin", entropy=2.0, fork_token=30)],
            refusals=[Refusal(65, "no_leaf_missing")],
        ),
        RecordedLeaf("u_1_0", 1, [0, 1, 3], 0.0, stop_reason="length", parent=0, reward_times=(7.0, 7.5)),
        RecordedLeaf("u_2_0", 2, [], None, stop_reason="empty", is_excluded=True, is_top_up=True),
    ],
)


def test_a_steps_summary_counts_what_leaves_share_once():
    found = summary_of_step(RecordedStep(3, seconds={"gen": 9.5}, alarms=["slow"], prompts=[PROMPT]))
    assert (found["step"], found["prompts"], found["leaves"]) == (3, 1, 3)
    assert (found["reward"], found["spread"]) == (0.5, 0.5)
    assert (found["calls"], found["failed"], found["forks"], found["topUps"], found["excluded"]) == (2, 1, 1, 1, 1)
    assert found["tokens"] == 10 + 30 + 40
    # 105 distinct tokens stand 135 times in the leaves: 65 and 70.
    assert found["shared"] == pytest.approx(1 - 105 / 135)
    assert (found["initial"], found["after"]) == (1.0, 2.0)
    assert found["stops"] == {"completed": 1, "length": 1, "empty": 1}
    assert found["statuses"] == {"search: ok": 1, "python: model_error": 1}


def test_a_step_without_prompts_has_no_statistics():
    found = summary_of_step(RecordedStep(1))
    assert found["reward"] is found["spread"] is found["initial"] is found["shared"] is None


def test_a_prompts_row_is_its_question_and_its_numbers():
    row = row_of_prompt(PROMPT)
    assert (row["question"], row["rewards"], row["mean"], row["spread"]) == ("How many?", [1.0, 0.0, None], 0.5, 0.5)
    assert (row["calls"], row["failed"], row["forks"], row["refusals"]) == (2, 1, 1, 1)


def test_a_leafs_time_is_its_own_without_its_prefixs():
    first, second, third = spans_of(PROMPT)
    assert first == [
        ("w", 0.0, 1.0),
        ("g", 1.0, 3.0),
        ("w", 3.0, 3.5),
        ("t", 3.5, 5.5),
        ("g", 5.5, 9.0),
        ("t", 9.0, 9.25),
    ]
    assert (second, third) == ([("g", 5.5, 7.0), ("r", 7.0, 7.5)], [])


class Elements(HTMLParser):
    """Collects scripts by id, and all tags."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: dict[str | None, str] = {}
        self.inside: str | None = None

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "script":
            self.inside = dict(attrs).get("id", "")
            self.scripts[self.inside] = ""

    def handle_data(self, data):
        if self.tags[-1:] == ["script"]:
            self.scripts[self.inside] += data


def read_page(source: Source) -> tuple[Elements, str]:
    text = b"".join(page_of(source)).decode()
    elements = Elements()
    elements.feed(text)
    return elements, text


def unpacked(elements: Elements, name: str) -> dict:
    return json.loads(zlib.decompress(base64.b64decode(elements.scripts[name])))


def test_a_page_holds_every_prompt_and_says_nothing_of_it_in_its_html(tmp_path):
    folder = tmp_path / "</script><b>"
    prompt = RecordedPrompt(HOSTILE, HOSTILE, [RecordedSegment(HOSTILE, 1)], [RecordedLeaf(HOSTILE, segments=[0])])
    write_step(folder / "1.jsonl", RecordedStep(1, alarms=[HOSTILE], size=1), [prompt])
    elements, text = read_page(source_of(folder))
    assert elements.tags.count("script") == 4 and not {"img", "b"} & set(elements.tags)
    assert "onerror" not in text.replace(json.dumps(HOSTILE).replace("<", "\\u003c"), "")
    assert unpacked(elements, "prompt-1-0")["text"] == HOSTILE
    assert json.loads(elements.scripts["run"])["steps"][0]["alarms"] == [HOSTILE]


def test_a_page_admits_its_own_script_alone_and_loads_nothing(tmp_path):
    _, text = read_page(source_of(write_run(tmp_path, steps=1, prompts=1)))
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)[1]
    assert policy.startswith("default-src 'none'") and "script-src 'sha256-" in policy
    assert not re.search(r"(src|href)=\"(https?:)?//", text)


def test_every_script_and_style_is_in_the_page_and_short():
    assert {file.name for file in STATIC.iterdir()} == {*page.STYLES, *page.SCRIPTS}
    for file in STATIC.iterdir():
        text = file.read_text()
        assert len(text.splitlines()) <= 400
        assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(", text), file.name
        assert "</script" not in text


def test_a_file_that_is_damaged_is_a_step_that_says_so(tmp_path):
    folder = write_run(tmp_path, steps=2, prompts=1)
    (folder / "rollouts" / "1.jsonl").write_text("nothing\n")
    elements, _ = read_page(source_of(folder))
    first, second = json.loads(elements.scripts["run"])["steps"]
    assert first["leaves"] == 0 and "is not JSON" in first["problems"][0]
    assert second["leaves"] == 8 and not second["problems"]


def test_files_of_several_runs_say_so(tmp_path):
    for name, step, began in [("1", 1, 100.0), ("2", 5, 200.0), ("3", 3, 50.0)]:
        write_step(tmp_path / f"{name}.jsonl", RecordedStep(step, began), [])
    first, second, third = source_of(tmp_path).steps()
    assert [first.step, second.step, third.step] == [1, 2, 3] and not first.problems
    assert "says that it is of step 5; expected 2" in second.problems[0]
    assert "began before the step before it" in third.problems[0]


def test_an_evaluations_samples_are_the_leaves_of_their_prompts(tmp_path):
    path = tmp_path / "run.jsonl"
    write_evaluation(path, header(2, 2), [*samples("q0", "Paris", None), *samples("q1", "Rome", calls=[call()])])
    source = source_of(path)
    [step] = source.steps()
    assert source.kind == "evaluation"
    assert [(prompt.uid, len(prompt.leaves)) for prompt in step.prompts] == [("q0", 2), ("q1", 1)]
    assert [one.tool for one in step.prompts[1].calls_of(step.prompts[1].leaves[0])] == ["search"]
    assert step.problems == ["1 of 4 samples are missing"]


def ask(server, path: str, host: str | None = None) -> tuple[int, bytes]:
    request = urllib.request.Request(f"http://127.0.0.1:{server.server_port}{path}")
    if host is not None:
        request.add_header("Host", host)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, answer.read()
    except urllib.error.HTTPError as error:
        return error.code, error.read()


@pytest.fixture
def serving(tmp_path):
    folder = write_run(tmp_path, steps=1, prompts=2)
    with open_server(source_of(folder)) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server, folder
        server.shutdown()
        thread.join()


def test_the_server_follows_a_run_that_goes_on(serving):
    server, folder = serving
    assert ask(server, "/")[1].startswith(b"<!doctype html>")
    assert [step["step"] for step in json.loads(ask(server, "/run.json")[1])["steps"]] == [1]
    assert json.loads(zlib.decompress(ask(server, "/prompt-1-1")[1]))["uid"] == "prompt-1-1"
    write_run(folder, steps=2, prompts=1)
    assert [(step["step"], step["prompts"]) for step in json.loads(ask(server, "/run.json")[1])["steps"]] == [
        (1, 1),
        (2, 1),
    ]
    assert len(json.loads(zlib.decompress(ask(server, "/step-1")[1]))["prompts"]) == 1


@pytest.mark.parametrize("path", ["/step-9", "/prompt-1-99", "/../../etc/passwd", "/nothing", "/step-1/../x"])
def test_the_server_has_the_run_and_nothing_else(serving, path):
    assert ask(serving[0], path)[0] == 404


def test_the_server_answers_no_name_but_this_machines(serving):
    assert ask(serving[0], "/run.json", host="evil.example")[0] == 403
    assert ask(serving[0], "/run.json", host="localhost:1")[0] == 200
    assert serving[0].server_address[0] == "127.0.0.1"


def command(*words: object) -> int:
    with pytest.raises(SystemExit) as end:
        command_line.main(["view", *map(str, words)])
    return end.value.code


def test_the_command_writes_a_page_beside_what_it_shows(tmp_path, capsys):
    folder = write_run(tmp_path / "a run", steps=1, prompts=1)
    assert command(folder) == 0
    assert (folder / "view.html").exists() and "open it in a browser" in capsys.readouterr().out
    assert command(folder / "rollouts" / "1.jsonl", "--out", tmp_path / "page.html") == 0
    assert (tmp_path / "page.html").stat().st_size > 10_000
    assert not list(tmp_path.rglob("*.draft"))


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nowhere"], 1, "nowhere is not there; expected the folder of a run"),
        (["."], 1, "has no record; expected files such as rollouts/1.jsonl"),
        ([".", "--serve", "--out", "x"], 2, "got --serve and --out; expected one of them"),
        ([".", "--serve", "--port", "70000"], 2, "expected 0 to 65535"),
    ],
)
def test_what_can_not_be_shown_is_said_in_words(tmp_path, monkeypatch, capsys, words, code, said):
    monkeypatch.chdir(tmp_path)
    assert command(*words) == code
    assert said in capsys.readouterr().err
