"""The table of trees in the loggers' own packages: what is written is read back, and hostile text stays text."""

import json
import os
import re
import struct
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_run import step_of
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugin_util import markdown_to_safe_html
from tensorboard.util.tensor_util import make_ndarray
from verl.utils.tracking import Tracking

from arpo_verl.record import RecordedCall, RecordedLeaf, RecordedPrompt, RecordedSegment
from arpo_verl.record.forks import most_telling
from arpo_verl.rollout.tree import Decision
from arpo_verl.tree_table.loggers import TAG, to_tensorboard
from arpo_verl.tree_table.markdown import as_text, markdown_table
from arpo_verl.tree_table.rows import COLUMNS, TEXT_CHARACTERS, TreeRow, rows_of_step

HOSTILE = (
    "<script>alert(1)</script> | **bold** `code` [link](javascript:x) ![i](http://e.org/x.png) <img src=x onerror=y> "
    "_a_ # h \\| &amp; https://e.org x@e.org $x$ ~~no~~ \x1b[31m \u202e \ud800 :smile: 1. 2) * - +"
)
PROMPT = RecordedPrompt(
    "u",
    "<s>Which | year?",
    [
        RecordedSegment("<search> x </search>", 4),
        RecordedSegment("found", 3, is_sampled=False, calls=[RecordedCall("search", "ok")]),
        RecordedSegment("one", 5),
        RecordedSegment("two", 6, calls=[RecordedCall("python", "timeout")]),
    ],
    [
        RecordedLeaf(
            *("u_0_0", 0, [0, 1, 2], 1.0, {}, [0.5, None, -0.4], "completed"),
            decisions=[Decision(1, "coin", branch_score=0.7, entropy=1.25, fork_token=7)],
        ),
        RecordedLeaf("u_1_0", 1, [0, 1, 3], None, {}, [], "length", 0, "0.1", 7, is_excluded=True),
    ],
    special=[(0, 3)],
)


def test_a_row_says_where_a_leaf_forked_what_it_called_and_what_it_got():
    first, second = rows_of_step(3, [PROMPT])
    # (4 * 0.5 - 5 * 0.4) / 9 = 0
    assert first == TreeRow(
        *(3, "Which | year?", 0, "", None, None, None, None, "search: ok", 1.0, pytest.approx(0.0), "completed"),
        "<search> x </search>foundone",
    )
    assert second == TreeRow(
        *(3, "Which | year?", 1, "0.1", 0, 7, 1.25, 0.7, "search: ok; python: timeout", None, None, "length, excluded"),
        "two",
    )
    assert second.values()[:4] == [3, "Which | year?", 1, "0.1"] and len(COLUMNS) == 13


def test_a_fork_of_a_round_has_the_score_that_turns_were_ranked_by():
    parent = RecordedLeaf("0", 0, decisions=[Decision(1, "", score=2.0, fork_token=0, round=1)])
    prompt = RecordedPrompt("u", "?", leaves=[parent, RecordedLeaf("1", 1, parent=0, fork_token=0)])
    assert rows_of_step(1, [prompt])[1].fork_score == 2.0


def test_a_result_of_a_megabyte_is_cut_before_it_is_looked_at():
    prompt = RecordedPrompt("u", "?", [RecordedSegment("<" * 10**6, 9)], [RecordedLeaf("u_0_0", segments=[0])])
    [row] = rows_of_step(1, [prompt])
    assert len(row.text) == TEXT_CHARACTERS
    assert len(markdown_table([row])) < 6 * TEXT_CHARACTERS


class Cells(HTMLParser):
    """The texts of a table's cells, and every tag."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self.feed(html)
        self.rows = [[cell.strip() for cell in row] for row in self.rows]

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


TABLE_TAGS = {"table", "thead", "tbody", "tr", "th", "td"}


def shown_by_tensorboard(markdown: str) -> Cells:
    """Return what TensorBoard's text page shows, by the function that makes it."""
    return Cells(markdown_to_safe_html(markdown))


def leaf_that_says(text: str) -> RecordedPrompt:
    segment = RecordedSegment(text, 3, calls=[RecordedCall(text, text)])
    return RecordedPrompt("u", text, [segment], [RecordedLeaf("u_0_0", segments=[0], path=text, stop_reason=text)])


def test_hostile_text_is_a_cell_of_text_in_tensorboard():
    rows = rows_of_step(1, [leaf_that_says(HOSTILE)])
    shown = shown_by_tensorboard(markdown_table(rows))
    assert shown.tags == TABLE_TAGS
    assert shown.rows[0] == COLUMNS and len(shown.rows) == 2
    text = shown.rows[1][COLUMNS.index("text")]
    assert text == rows[0].text
    assert "⟨U+001B⟩" in text and "⟨U+202E⟩" in text and "⟨U+D800⟩" in text


@given(st.text(st.characters(exclude_categories=()), max_size=60))
def test_any_text_is_a_cell_of_text(text):
    rows = rows_of_step(1, [leaf_that_says(text)])
    shown = shown_by_tensorboard(markdown_table(rows))
    assert shown.tags <= TABLE_TAGS
    assert [len(row) for row in shown.rows] == [len(COLUMNS)] * 2
    assert shown.rows[1][COLUMNS.index("text")].split() == rows[0].text.split()


def test_letters_and_digits_are_written_as_they_are():
    assert as_text("Ein Jahr: 1900, 日本") == "Ein Jahr&#58; 1900, 日本"


def test_tensorboards_own_reader_finds_the_table_of_each_step(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path))
    tracking = Tracking("project", "run", ["tensorboard"])
    tables = {}
    for step in (1, 2):
        _, prompts = step_of(step, prompts=3)
        rows = rows_of_step(step, most_telling(prompts, 2))
        to_tensorboard(tracking.logger["tensorboard"], step, rows)
        tracking.log({"reward": 0.5}, step)
        tables[step] = rows
    tracking.finish()
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    found = events.Tensors(f"{TAG}/text_summary")
    assert [one.step for one in found] == [1, 2]
    for one in found:
        shown = shown_by_tensorboard(make_ndarray(one.tensor_proto).item().decode())
        assert len(shown.rows) == 1 + 2 * 8
        for cells, row in zip(shown.rows[1:], tables[one.step], strict=True):
            assert cells[COLUMNS.index("text")].split() == row.text.split()
            assert cells[:4] == [str(row.step), row.prompt, str(row.leaf), row.path]
    assert [one.value for one in events.Scalars("reward")] == [0.5, 0.5]


WANDB_RUN = """
import json, sys, threading
from pathlib import Path
sys.path.insert(0, {shared!r})
from recorded_run import step_of
from test_tree_table import HOSTILE, leaf_that_says
from verl.utils.tracking import Tracking
from arpo_verl.record.forks import most_telling
from arpo_verl.tree_table.loggers import to_wandb
from arpo_verl.tree_table.rows import rows_of_step

tracking = Tracking("project", "run", ["wandb"])
tracking.log({{"reward": 0.1}}, 1)
tracking.log({{"reward": 0.2}}, 2)
_, prompts = step_of(1, prompts=3)
rows = rows_of_step(1, most_telling(prompts, 1))
# The table of step 1 comes from another thread, when step 2 has been logged.
thread = threading.Thread(target=to_wandb, args=(tracking.logger["wandb"], 1, rows))
thread.start()
thread.join()
tracking.log({{"reward": 0.3}}, 3)
to_wandb(tracking.logger["wandb"], 3, rows_of_step(3, [leaf_that_says(HOSTILE)]))
tracking.finish()
Path("rows.json").write_text(json.dumps([row.values() for row in rows]))
"""


def wandb_history(folder: Path) -> list[dict]:
    """Return the history of an offline run, whose file is a log of LevelDB's form behind seven bytes of its own."""
    from wandb.proto import wandb_internal_pb2

    [file] = folder.rglob("run-*.wandb")
    content, place, whole, history = file.read_bytes(), 7, b"", []
    while place + 7 <= len(content):
        _, length, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + length]
        place += 7 + length
        if -place % 2**15 < 7:  # a block's end has no room for a header
            place += -place % 2**15
        if kind in (1, 4):  # the whole of a record, or its last part
            record = wandb_internal_pb2.Record.FromString(whole)
            whole = b""
            if record.HasField("history"):
                items = {".".join([item.key, *item.nested_key]).strip("."): item for item in record.history.item}
                history.append({name: json.loads(item.value_json) for name, item in items.items()})
    return history


@pytest.mark.slow
def test_wandb_keeps_the_table_and_the_steps_of_verls_metrics(tmp_path):
    variables = os.environ | {
        "WANDB_MODE": "offline",
        "WANDB_DIR": str(tmp_path),
        "WANDB_SILENT": "true",
        "HOME": str(tmp_path),
        "PYTHONPATH": str(Path(__file__).parent),
    }
    code = WANDB_RUN.format(shared=str(Path(__file__).parents[1] / "shared"))
    ran = subprocess.run(
        [sys.executable, "-c", code], env=variables, cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    tables = {
        (table := json.loads(file.read_text()))["data"][0][0]: table
        for file in tmp_path.rglob("media/table/arpo/*.table.json")
    }
    assert sorted(tables) == [1, 3] and all(table["columns"] == COLUMNS for table in tables.values())
    assert tables[1]["data"] == json.loads((tmp_path / "rows.json").read_text())
    [hostile] = tables[3]["data"]
    assert hostile[COLUMNS.index("text")] == rows_of_step(3, [leaf_that_says(HOSTILE)])[0].text
    history = wandb_history(tmp_path)
    assert [(one["_step"], one["reward"], one.get(f"{TAG}.nrows")) for one in history] == [
        (1, 0.1, None),
        (2, 0.2, len(tables[1]["data"])),
        (3, 0.3, 1),
    ]


def test_no_column_has_a_name_that_markdown_reads_otherwise():
    assert all(re.fullmatch("[a-z_]+", name) for name in COLUMNS)
