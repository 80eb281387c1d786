"""The tree of one prompt: what leaves share once, forks and what they were decided by, rewards."""

from collections.abc import Iterable, Iterator

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from arpo_verl.figures.drawing import GREY
from arpo_verl.record import RecordedLeaf, RecordedPrompt, RecordedStep
from arpo_verl.record.forks import interest_of

SAMPLED, RESULT, FORK = "#0072b2", "#b5b5b5", "#d55e00"


def choose(steps: Iterable[RecordedStep], step: int | None, uid: str | None) -> tuple[RecordedStep, RecordedPrompt]:
    """Return the prompt that is asked for.

    Args:
        steps: of a run.
        step: its number; by default the last one that has prompts.
        uid: by default the prompt with the most forks of those with the largest spread of rewards.

    Raises:
        ValueError: there is no such step or prompt; the message has those that there are.
    """
    known = {one.step: one for one in steps if one.prompts}
    if not known or (step is not None and step not in known):
        there = ", ".join(map(str, known)) or "none"
        raise ValueError(f"step {step} has no prompts; expected one of those that have: {there}")
    chosen = known[max(known) if step is None else step]
    by_uid = {prompt.uid: prompt for prompt in chosen.prompts}
    if uid is None:
        return chosen, max(chosen.prompts, key=interest_of)
    if uid not in by_uid:
        raise ValueError(f"step {chosen.step} has no prompt {uid!r}; expected one of {', '.join(by_uid)}")
    return chosen, by_uid[uid]


def in_rows(leaves: Iterable[RecordedLeaf]) -> list[RecordedLeaf]:
    """Return leaves from the top down: each stands below the one that it forked from."""
    children: dict[int | None, list[RecordedLeaf]] = {}
    numbers = {leaf.number for leaf in leaves}
    for leaf in sorted(leaves, key=lambda one: one.number):
        children.setdefault(leaf.parent if leaf.parent in numbers else None, []).append(leaf)

    def below(parent: int | None) -> Iterator[RecordedLeaf]:
        for leaf in children.get(parent, ()):
            yield leaf
            yield from below(leaf.number)

    return list(below(None))


def size(prompt: RecordedPrompt) -> tuple[float, float]:
    """Return width and height in inches."""
    return 9.0, 1.3 + 0.42 * len(prompt.leaves)


def draw(figure: Figure, step: RecordedStep, prompt: RecordedPrompt) -> None:
    """Draw a row for each leaf, from where it forked on, by tokens of the response."""
    axes = figure.subplots()
    rows = {leaf.number: row for row, leaf in enumerate(in_rows(prompt.leaves))}
    for leaf in prompt.leaves:
        _draw_leaf(axes, prompt, leaf, rows)
    for leaf in prompt.leaves:
        _draw_decisions(axes, leaf, rows[leaf.number])
    labels = [f"leaf {number}" for number in rows]
    axes.set(ylim=(len(rows) - 0.4, -0.8), xlabel="tokens of the response", yticks=range(len(rows)), yticklabels=labels)
    longest = max(sum(segment.tokens for segment in prompt.segments_of(leaf)) for leaf in prompt.leaves)
    axes.set_xlim(0, max(1.0, 1.13 * longest))
    axes.spines[["left", "right", "top"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.set_title(f"prompt {prompt.uid}, step {step.step}", loc="left")
    figure.legend(handles=_legend(), loc="outside lower center", ncols=5, frameon=False)


def _draw_leaf(axes: Axes, prompt: RecordedPrompt, leaf: RecordedLeaf, rows: dict[int, int]) -> None:
    row, start, token = rows[leaf.number], leaf.fork_token or 0, 0
    if leaf.parent in rows:
        axes.plot([start, start], [rows[leaf.parent], row], ":", color=FORK, linewidth=1.2, zorder=1)
    for segment in prompt.segments_of(leaf):
        begin, token = max(token, start), token + segment.tokens
        if begin < token:
            shade = SAMPLED if segment.is_sampled else RESULT
            axes.plot([begin, token], [row, row], color=shade, linewidth=4, solid_capstyle="butt", zorder=2)
    reward = "no reward" if leaf.reward is None else f"reward {leaf.reward:g}"
    said = f"{reward}, excluded" if leaf.is_excluded else reward
    axes.annotate(said, (token, row), (6, 0), textcoords="offset points", va="center", weight="bold")


def _draw_decisions(axes: Axes, leaf: RecordedLeaf, row: int) -> None:
    for seen in leaf.decisions:
        if seen.fork_token is None:
            continue
        fill = FORK if seen.forks else "white"
        axes.plot(seen.fork_token, row, "o", color=FORK, markerfacecolor=fill, markersize=6, zorder=3)
        known = (("H", seen.entropy), ("P", seen.branch_score))
        said = ", ".join(f"{name} {value:.2f}" for name, value in known if value is not None)
        axes.annotate(said, (seen.fork_token, row), (2, 6), textcoords="offset points", fontsize=7, color="#333333")
    for refusal in leaf.refusals:
        axes.plot(refusal.fork_token, row, "x", color=GREY, markersize=5, zorder=3)


def _legend() -> list[Line2D]:
    lines = [
        Line2D([], [], color=shade, linewidth=4, label=label)
        for shade, label in ((SAMPLED, "sampled"), (RESULT, "tool result"))
    ]
    decided = [
        Line2D([], [], color=FORK, marker="o", markerfacecolor=fill, linestyle="", label=label)
        for fill, label in ((FORK, "forks"), ("white", "does not fork (H nats, score P)"))
    ]
    return [*lines, *decided, Line2D([], [], color=GREY, marker="x", linestyle="", label="rule not asked")]
