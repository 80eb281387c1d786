"""Where somebody is in a run, and where a key leads. Pure: a place and a key in, a place out."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from arpo_verl.record import RecordedStep
from arpo_verl.viewer.terminal.lists import Line, lines_of_leaf, lines_of_run, lines_of_step, lines_of_tree, spread

HELP = "q quit  j k move  Enter open  u up  n p next  space b page  g G ends"
"""The keys, as the last line of a screen; arrows do what j, k, Enter and u do."""


@dataclass(frozen=True)
class Place:
    """A screen: the run, a step, a prompt's tree or a leaf; and the line that is chosen."""

    step: int | None = None
    """The place of the step among the steps."""
    prompt: int | None = None
    leaf: int | None = None
    """The place of the leaf in its prompt."""
    line: int = 0
    is_over: bool = False

    @property
    def up(self) -> "Place":
        """The screen above, with what one comes from chosen."""
        if self.leaf is not None:
            return Place(self.step, self.prompt)
        if self.prompt is not None:
            return Place(self.step, line=self.prompt + 1)
        return Place(line=0) if self.step is not None else self


def lines_at(steps: Sequence[RecordedStep], place: Place) -> list[Line]:
    """Return what a screen shows."""
    if place.step is None:
        return lines_of_run(steps)
    step = steps[place.step]
    if place.prompt is None:
        return lines_of_step(step)
    prompt = step.prompts[place.prompt]
    return lines_of_tree(prompt) if place.leaf is None else lines_of_leaf(prompt, prompt.leaves[place.leaf])


def title_at(steps: Sequence[RecordedStep], place: Place) -> str:
    """Return where one is."""
    parts = ["run"]
    if place.step is not None:
        parts.append(f"step {steps[place.step].step}")
    if place.step is not None and place.prompt is not None:
        parts.append(f"prompt {place.prompt}")
        if place.leaf is not None:
            parts.append(f"leaf {steps[place.step].prompts[place.prompt].leaves[place.leaf].number}")
    return " › ".join(parts)


def pressed(steps: Sequence[RecordedStep], place: Place, key: str, height: int) -> Place:
    """Return where a key leads.

    Args:
        steps: of the run.
        place: where one is.
        key: a character, or `up`, `down`, `left`, `right`, `enter`.
        height: the number of lines of a page.
    """
    lines = lines_at(steps, place)
    moves = {"j": 1, "down": 1, "k": -1, "up": -1, " ": height, "b": -height, "g": -len(lines), "G": len(lines)}
    if key in moves:
        return replace(place, line=min(max(0, place.line + moves[key]), max(0, len(lines) - 1)))
    if key in ("enter", "right"):
        return _opened(place, lines[place.line].chosen if lines else None)
    if key in ("u", "left"):
        return place.up
    if key in ("n", "p"):
        return _beside(steps, place, 1 if key == "n" else -1)
    return replace(place, is_over=True) if key in ("q", "\x03", "\x04") else place


def _opened(place: Place, chosen: int | None) -> Place:
    if chosen is None:
        return place
    if place.step is None:
        return Place(chosen)
    return Place(place.step, chosen) if place.prompt is None else Place(place.step, place.prompt, chosen)


def _beside(steps: Sequence[RecordedStep], place: Place, direction: int) -> Place:
    """Return the same kind of screen, of the next or the previous one."""
    if place.step is None:
        return place
    if place.prompt is None:
        return Place(_within(place.step + direction, len(steps)))
    prompts = steps[place.step].prompts
    if place.leaf is None:
        return Place(place.step, _within(place.prompt + direction, len(prompts)))
    return Place(place.step, place.prompt, _within(place.leaf + direction, len(prompts[place.prompt].leaves)))


def _within(number: int, size: int) -> int:
    return min(max(0, number), size - 1)


def widest(steps: Sequence[RecordedStep]) -> Place:
    """Return the tree of the last step whose rewards differ most; the run where there is none."""
    for number in reversed(range(len(steps))):
        prompts = steps[number].prompts
        if prompts:
            return Place(number, max(range(len(prompts)), key=lambda place: spread(prompts[place])))
    return Place()
