"""The terminal itself: keys in, lines out. Without a terminal on both sides, what there is is printed once."""

import contextlib
import os
import sys
from collections.abc import Generator, Sequence

from rich.console import Console
from rich.text import Text

from arpo_verl.record import RecordedStep
from arpo_verl.viewer.terminal.lists import Line
from arpo_verl.viewer.terminal.screen import HELP, Place, lines_at, pressed, title_at, widest

_ARROWS = {b"\x1b[A": "up", b"\x1b[B": "down", b"\x1b[C": "right", b"\x1b[D": "left"}
_ARROWS |= {sequence.replace(b"[", b"O"): name for sequence, name in _ARROWS.items()}


def show(steps: Sequence[RecordedStep]) -> None:
    """Show a run until somebody quits; print it and the tree whose rewards differ most where nobody can press keys."""
    # rich leaves colours out where the environment has NO_COLOR, and all of them where the output is no terminal.
    console = Console(highlight=False)
    if not (sys.stdin.isatty() and console.is_terminal) or os.environ.get("TERM") == "dumb":
        _print(console, steps)
        return
    with _keys() as read, console.screen(hide_cursor=True) as screen:
        place = Place()
        while not place.is_over:
            height = max(1, console.size.height - 2)
            screen.update(_picture(console, steps, place, height))
            place = pressed(steps, place, read(), height)


def _print(console: Console, steps: Sequence[RecordedStep]) -> None:
    tree = widest(steps)
    for place in (Place(), *([tree] if tree.step is not None else [])):
        console.print(Text(title_at(steps, place), style="bold"))
        for line in lines_at(steps, place):
            console.print(line.text, soft_wrap=True)


def _picture(console: Console, steps: Sequence[RecordedStep], place: Place, height: int) -> Text:
    """Return a screen: where one is, the lines around the chosen one, each cut to the width, and the keys."""
    width = console.size.width
    lines = lines_at(steps, place)
    first = min(max(0, place.line - height // 2), max(0, len(lines) - height))
    shown = [
        _cut(line, width, number == place.line) for number, line in enumerate(lines[first : first + height], first)
    ]
    shown += [Text("")] * (height - len(shown))
    return Text("\n").join([Text(title_at(steps, place), style="bold"), *shown, Text(HELP[:width], style="dim")])


def _cut(line: Line, width: int, is_chosen: bool) -> Text:
    text = line.text.copy()
    text.truncate(max(1, width), overflow="ellipsis")
    if is_chosen:
        text.stylize("reverse")
    return text


@contextlib.contextmanager
def _keys() -> Generator["Reader", None, None]:
    """Let keys come at once, and put the terminal back as it was."""
    import termios
    import tty

    number = sys.stdin.fileno()
    before = termios.tcgetattr(number)
    try:
        tty.setcbreak(number)
        yield Reader(number)
    finally:
        termios.tcsetattr(number, termios.TCSADRAIN, before)


class Reader:
    """Reads keys from a terminal."""

    def __init__(self, number: int) -> None:
        """
        Args:
            number: the terminal's file descriptor.
        """
        self._number = number

    def __call__(self) -> str:
        """Return the next key; `q` where the terminal has gone."""
        try:
            pressed_now = os.read(self._number, 16)
        except (OSError, KeyboardInterrupt):
            return "q"
        if not pressed_now:
            return "q"
        if pressed_now in _ARROWS:
            return _ARROWS[pressed_now]
        return "enter" if pressed_now[:1] in (b"\r", b"\n") else pressed_now[:1].decode("latin-1")
