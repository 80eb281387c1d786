"""What the terminal's screens show: a line each for what can be chosen, as rich texts. Pure: records in, texts out."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from arpo_verl.record import RecordedLeaf, RecordedPrompt, RecordedSegment, RecordedStep
from arpo_verl.record.visible import one_line, question_of, visible
from arpo_verl.rollout.tree import Decision, Refusal
from arpo_verl.viewer.summary import GOOD_STATUSES
from arpo_verl.viewer.terminal.text import number

SAMPLED, RESULT, FAILED, FORK, MUTED = "blue", "yellow", "red", "bold cyan", "dim"
SNIPPET = 46
"""Characters of a segment in a tree."""


@dataclass(frozen=True)
class Line:
    """A line of a screen."""

    text: Text
    chosen: int | None = None
    """What Enter opens: the place of a step, a prompt or a leaf in its list; None: nothing."""


def lines_of_run(steps: Sequence[RecordedStep]) -> list[Line]:
    """Return a line for each step."""
    lines = [Line(Text("  step  prompts  leaves  reward  calls  failed  forks  top-ups", style=MUTED))]
    for place, step in enumerate(steps):
        leaves = [leaf for _, leaf in step.rows()]
        calls = [call for prompt in step.prompts for segment in prompt.segments for call in segment.calls]
        failed = sum(call.status not in GOOD_STATUSES for call in calls)
        text = Text(
            f"{step.step:6}  {len(step.prompts):7}  {len(leaves):6}  {_mean(leaves):>6}  {len(calls):5}  {failed:6}  "
            f"{sum(leaf.parent is not None for leaf in leaves):5}  {sum(leaf.is_top_up for leaf in leaves):7}"
        )
        lines.append(Line(text, place))
        lines += [Line(Text(f"        {one_line(said, 200)}", style=FAILED)) for said in (*step.problems, *step.alarms)]
    return lines


def _mean(leaves: Sequence[RecordedLeaf]) -> str:
    rewards = [leaf.reward for leaf in leaves if leaf.reward is not None]
    return number(statistics.fmean(rewards)) if rewards else "–"


def lines_of_step(step: RecordedStep) -> list[Line]:
    """Return a line for each prompt."""
    lines = [Line(Text("     #  mean reward  spread  forks  calls  question", style=MUTED))]
    for place, prompt in enumerate(step.prompts):
        calls = sum(len(segment.calls) for segment in prompt.segments)
        forks = sum(leaf.parent is not None for leaf in prompt.leaves)
        about = f"{place:6}  {_mean(prompt.leaves):>11}  {number(spread(prompt)):>6}  {forks:5}  {calls:5}  "
        lines.append(Line(Text.assemble(about, (one_line(question_of(prompt), 200), MUTED)), place))
    return lines


def spread(prompt: RecordedPrompt) -> float:
    """Return the standard deviation of a prompt's rewards; 0 where there are none."""
    rewards = [leaf.reward for leaf in prompt.leaves if leaf.reward is not None]
    return statistics.pstdev(rewards) if rewards else 0.0


def lines_of_tree(prompt: RecordedPrompt) -> list[Line]:
    """Return a prompt's tree: shared segments once, forks where they happened, with what was decided there."""
    lines = [Line(Text(one_line(question_of(prompt), 200), style="bold"))]
    by_number = {leaf.number: leaf for leaf in prompt.leaves}
    forks: dict[int, list[RecordedLeaf]] = {}
    roots = []
    for leaf in prompt.leaves:
        parent = by_number.get(leaf.parent) if leaf.parent is not None and leaf.parent < leaf.number else None
        if parent is None:
            roots.append(leaf)
        else:
            forks.setdefault(parent.number, []).append(leaf)
    for root in roots:
        lines += _branch(prompt, root, forks, 0, "")
    return lines


def _branch(
    prompt: RecordedPrompt, leaf: RecordedLeaf, forks: dict[int, list[RecordedLeaf]], shared: int, indent: str
) -> list[Line]:
    """Return the lines of a leaf behind what it shares with its parent, each fork below the place where it began."""
    place = prompt.leaves.index(leaf)
    lines = [Line(Text.assemble(indent, ("● ", FORK if shared else SAMPLED), _end(leaf)), place)]
    children = [(_shared(child, leaf), child) for child in forks.get(leaf.number, ())]
    tokens = sum(prompt.segments[number].tokens for number in leaf.segments[:shared])
    for depth in range(shared, len(leaf.segments) + 1):
        if depth:
            lines += [Line(Text.assemble(f"{indent}│ ", _decision(one)), place) for one in _decided(leaf, tokens)]
        for at, child in children:
            if at == depth:
                lines += _branch(prompt, child, forks, depth, f"{indent}│   ")
        if depth < len(leaf.segments):
            segment = prompt.segments[leaf.segments[depth]]
            lines.append(Line(Text.assemble(f"{indent}│ ", _segment(segment)), place))
            tokens += segment.tokens
    return lines


def _decided(leaf: RecordedLeaf, token: int) -> list[Decision | Refusal]:
    """Return what was decided, or could not be, at a place in a leaf."""
    every: list[Decision | Refusal] = [*leaf.decisions, *leaf.refusals]
    return [one for one in every if one.fork_token == token]


def _shared(leaf: RecordedLeaf, other: RecordedLeaf) -> int:
    depth = 0
    for ours, theirs in zip(leaf.segments, other.segments, strict=False):
        if ours != theirs:
            break
        depth += 1
    return depth


def _end(leaf: RecordedLeaf) -> Text:
    advantages = [value for value in leaf.advantages if value is not None]
    notes = [leaf.stop_reason, "top-up" if leaf.is_top_up else "", "excluded" if leaf.is_excluded else ""]
    style = "bold green" if (leaf.reward or 0) > 0 else "bold red"
    about = f"  A {number(advantages[-1])}" if advantages else ""
    return Text.assemble(
        f"leaf {leaf.number}  ", (f"reward {number(leaf.reward)}", style), about, f"  {', '.join(filter(None, notes))}"
    )


def _decision(one: Decision | Refusal) -> Text:
    if isinstance(one, Refusal):
        return Text(f"╳ could not fork: {one.reason}", style=MUTED)
    known = [("ΔH", one.entropy_change), ("H", one.entropy), ("P", one.branch_score), ("score", one.score)]
    numbers = "  ".join(f"{name} {number(value)}" for name, value in known if value is not None)
    drawn = f"  drawn {', '.join(number(draw) for draw in one.draws)}" if one.draws else ""
    mark = f"◆ {one.forks} fork{'s' if one.forks > 1 else ''}" if one.forks else "◇ no fork"
    return Text(f"{mark}  {numbers}{drawn}  ({one_line(one.limit, 40)})", style=FORK if one.forks else MUTED)


def _segment(segment: RecordedSegment) -> Text:
    if segment.is_sampled:
        return Text(f"{one_line(segment.text, SNIPPET)}  ({segment.tokens})", style=SAMPLED)
    calls = ", ".join(f"{call.tool}: {call.status} {call.seconds:.2f} s" for call in segment.calls)
    is_failed = any(call.status not in GOOD_STATUSES for call in segment.calls)
    return Text(f"→ {one_line(calls, 2 * SNIPPET)}", style=FAILED if is_failed else RESULT)


def lines_of_leaf(prompt: RecordedPrompt, leaf: RecordedLeaf) -> list[Line]:
    """Return the conversation of a leaf."""
    lines = [Line(_end(leaf)), *_block("prompt", prompt.text, MUTED)]
    advantages = leaf.advantages or [None] * len(leaf.segments)
    for segment, advantage in zip(prompt.segments_of(leaf), advantages, strict=True):
        calls = "; ".join(f"{one.tool}: {one.status}, {one.seconds:.2f} s" for one in segment.calls)
        if segment.is_sampled:
            known = "" if advantage is None else f", A {number(advantage)}"
            lines += _block(f"model ({segment.tokens} tokens{known})", segment.text, SAMPLED)
        else:
            lines += _block(f"tool {one_line(calls, 200)}", segment.text, RESULT)
    return lines


def _block(title: str, text: str, style: str) -> list[Line]:
    return [Line(Text(f"── {title}", style=f"bold {style}")), *(Line(Text(line)) for line in visible(text).split("\n"))]
