"""The terminal's screens, what keys do, and the program in a pseudo-terminal."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded_run import write_run

from arpo_verl.record import RecordedLeaf, RecordedPrompt, RecordedSegment, RecordedStep, read_steps
from arpo_verl.record.visible import one_line, visible
from arpo_verl.rollout.tree import Decision, Refusal
from arpo_verl.viewer.terminal.lists import lines_of_leaf, lines_of_tree
from arpo_verl.viewer.terminal.screen import Place, lines_at, pressed, title_at, widest
from arpo_verl.viewer.terminal.text import number

PROMPT = RecordedPrompt(
    "u",
    "ask",
    [
        RecordedSegment("call", 4),
        RecordedSegment("found", 3, is_sampled=False),
        RecordedSegment("one", 5),
        RecordedSegment("two", 6),
    ],
    [
        RecordedLeaf(
            "u_0_0",
            0,
            [0, 1, 2],
            1.0,
            advantages=[0.5, None, 0.5],
            stop_reason="completed",
            decisions=[Decision(1, "coin", 0.25, 0.75, 1.5, fork_token=7, draws=[0.125])],
        ),
        RecordedLeaf("u_1_0", 1, [0, 1, 3], 0.0, parent=0, stop_reason="length", refusals=[Refusal(7, "failed_call")]),
    ],
)


def plain(lines) -> list[str]:
    return [line.text.plain for line in lines]


def test_a_tree_shows_what_is_shared_once_and_a_fork_where_it_happened():
    assert plain(lines_of_tree(PROMPT)) == [
        "ask",
        "● leaf 0  reward 1  A 0.5  completed",
        "│ call  (4)",
        "│ → ",
        "│ ◆ 1 fork  ΔH 0.25  H 1.5  P 0.75  drawn 0.125  (coin)",
        "│   ● leaf 1  reward 0  length",
        "│   │ ╳ could not fork: failed_call",
        "│   │ two  (6)",
        "│ one  (5)",
    ]


def test_a_leaf_is_its_conversation():
    lines = plain(lines_of_leaf(PROMPT, PROMPT.leaves[0]))
    assert lines[1:3] == ["── prompt", "ask"]
    assert lines[-2:] == ["── model (5 tokens, A 0.5)", "one"]


def test_texts_can_not_steer_the_terminal():
    assert visible("a\x1b[31m\u202eb\x00\ud800") == "a⟨U+001B⟩[31m⟨U+202E⟩b⟨U+0000⟩⟨U+D800⟩"
    assert one_line(" a\n b\tc ", 80) == "a b c" and one_line("abcdef", 4) == "abc…"
    assert (number(None), number(0.5), number(100.0)) == ("–", "0.5", "100")


STEPS = [RecordedStep(1, prompts=[PROMPT, PROMPT]), RecordedStep(2), RecordedStep(7, prompts=[PROMPT])]
KEYS = ["j", "k", "up", "down", "left", "right", "enter", "u", "n", "p", " ", "b", "g", "G", "x", "\x1b"]


@given(st.lists(st.sampled_from(KEYS), max_size=40))
def test_whatever_keys_are_pressed_there_is_a_screen(keys):
    place = Place()
    for key in keys:
        place = pressed(STEPS, place, key, 10)
        assert 0 <= place.line < max(1, len(lines_at(STEPS, place)))
        assert title_at(STEPS, place).startswith("run") and not place.is_over


def test_keys_lead_from_the_run_to_a_leaf_and_back():
    place = Place()
    step, first = "run › step 1", "run › step 1 › prompt 0"
    for key, title in [
        ("j", "run"), ("enter", step), ("j", step), ("enter", first), ("n", f"{step} › prompt 1"),
        ("G", f"{step} › prompt 1"), ("enter", f"{step} › prompt 1 › leaf 0"), ("n", f"{step} › prompt 1 › leaf 1"),
        ("u", f"{step} › prompt 1"), ("u", step), ("u", "run"),
    ]:  # fmt: skip
        place = pressed(STEPS, place, key, 10)
        assert title_at(STEPS, place) == title
    assert pressed(STEPS, place, "q", 10).is_over


def test_the_widest_prompt_is_that_of_the_last_step_with_prompts():
    assert widest(STEPS) == Place(2, 0) and widest([]) == Place()


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), steps=2, prompts=2)


def start(run: Path) -> list[str]:
    code = "from arpo_verl.command_line import main; main()"
    return [sys.executable, "-c", code, "view", str(run), "--terminal"]


@pytest.mark.slow
def test_without_a_terminal_it_prints_and_ends(run):
    ended = subprocess.run(start(run), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
    assert "\x1b" not in ended.stdout
    assert "● leaf 0" in ended.stdout and ended.stdout.startswith("run\n")


class Terminal:
    """A pseudo-terminal with the program in it."""

    def __init__(self, run: Path, columns: int, **environment: str) -> None:
        self.ours, theirs = pty.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        # A library that the process has imported may have set a size, which a program takes for its terminal's.
        size = ("COLUMNS", "LINES")
        variables = {name: value for name, value in os.environ.items() if name not in size}
        variables |= {"TERM": "xterm-256color", **environment}
        self.program = subprocess.Popen(
            start(run), stdin=theirs, stdout=theirs, stderr=theirs, env=variables, start_new_session=True
        )
        os.close(theirs)
        self.output = ""

    def wait_for(self, text: str) -> str:
        """Return what has been written since the last time, up to a text."""
        end = time.monotonic() + 60
        while text not in self.output:
            assert time.monotonic() < end, f"no {text!r} in {self.output!r}"
            if select.select([self.ours], [], [], 0.2)[0]:
                self.output += os.read(self.ours, 65536).decode(errors="replace")
        written, self.output = self.output, ""
        return written

    def press(self, keys: bytes) -> None:
        os.write(self.ours, keys)

    def end(self) -> int:
        try:
            return self.program.wait(timeout=30)
        finally:
            self.program.kill()
            os.close(self.ours)


@pytest.mark.slow
def test_keys_move_in_a_terminal_and_leave_it_as_it_was(run):
    terminal = Terminal(run, columns=80)
    terminal.wait_for("q quit")
    for keys, title in [(b"j\r", "step 1"), (b"\x1b[B", "question"), (b"\r", "prompt 0"), (b"j", "leaf 0")]:
        for key in [keys] if keys.startswith(b"\x1b") else [bytes([key]) for key in keys]:
            terminal.press(key)
            time.sleep(0.3)
        terminal.wait_for(title)
    terminal.press(b"q")
    assert "\x1b[?1049l" in terminal.wait_for("\x1b[?25h") + terminal.output  # the screen of before, with its cursor
    assert terminal.end() == 0


@pytest.mark.slow
def test_a_narrow_terminal_without_colours_has_lines_that_fit(run):
    terminal = Terminal(run, columns=30, NO_COLOR="1")
    screen = terminal.wait_for("q quit")
    assert not any(f"\x1b[{code}m" in screen for code in (*range(30, 38), "1;34"))
    for line in re.sub(r"\x1b\[[?\d;]*\w", "", screen).splitlines():
        assert len(line) <= 30
    terminal.press(b"q")
    assert terminal.end() == 0


def test_a_run_that_can_be_read_has_the_same_prompts_in_every_view(run):
    steps = list(read_steps(run))
    for step in steps:
        for prompt in step.prompts:
            text = "\n".join(plain(lines_of_tree(prompt)))
            assert text.count("● leaf") == len(prompt.leaves)
            assert text.count("◆") + text.count("◇") == sum(len(leaf.decisions) for leaf in prompt.leaves)
            assert text.count("╳") == sum(len(leaf.refusals) for leaf in prompt.leaves)
