"""Draws the tree of one prompt, with the entropy at each place where it could fork.

    python docs/figures/tree_figure.py    # writes tree.svg from tree.json

`tree.json` has the numbers of a rollout's record; it names the run that they are from. What a leaf shares with the one
that it forked from is drawn once. The lowest row says what the colours are.
"""

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent
WIDTH, LEFT, TOP, ROW, TOKEN = 820, 70, 34, 46, 5.2
SAMPLED, RESULT, FORK, NO_FORK = "#0072b2", "#b5b5b5", "#d55e00", "#ffffff"


def rows(leaves: list[dict[str, Any]]) -> dict[int, int]:
    """Return the row of each leaf: a leaf stands below the one that it forked from."""
    order: list[int] = []

    def add(leaf: dict[str, Any]) -> None:
        order.append(leaf["number"])
        for child in (one for one in leaves if one["parent"] == leaf["number"]):
            add(child)

    for root in (one for one in leaves if one["parent"] is None):
        add(root)
    return {number: row for row, number in enumerate(order)}


def draw(tree: dict[str, Any]) -> str:
    """Return the figure as SVG; the same numbers give the same text."""
    place = rows(tree["leaves"])
    height = TOP + ROW * (len(place) + 1)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif"',
        ' font-size="11">',
        f'<rect width="{WIDTH}" height="{height}" fill="#ffffff"/>',
        f'<text x="10" y="16">Prompt {tree["prompt"]}: {len(place)} leaves, by tokens of the response</text>',
    ]
    for leaf in tree["leaves"]:
        parts += _leaf(leaf, place)
    for leaf in tree["leaves"]:
        parts += _decisions(leaf, place)
    return "\n".join([*parts, *_legend(height), "</svg>\n"])


def _x(token: int) -> float:
    return round(LEFT + TOKEN * token, 1)


def _y(row: int) -> float:
    return TOP + ROW * (row + 0.5)


def _leaf(leaf: dict[str, Any], place: dict[int, int]) -> list[str]:
    start, y, token = leaf["fork_token"] or 0, _y(place[leaf["number"]]), 0
    parts = [f'<text x="10" y="{y + 4}">leaf {leaf["number"]}</text>']
    if leaf["parent"] is not None:
        above = _y(place[leaf["parent"]])
        parts.append(f'<path d="M{_x(start)} {above}V{y}" stroke="{FORK}" stroke-dasharray="3 3" fill="none"/>')
    for length, is_sampled in leaf["segments"]:
        begin, token = max(token, start), token + length
        if begin < token:
            colour = SAMPLED if is_sampled else RESULT
            parts.append(f'<path d="M{_x(begin)} {y}H{_x(token)}" stroke="{colour}" stroke-width="6"/>')
    return [*parts, f'<text x="{_x(token) + 8}" y="{y + 4}" font-weight="bold">reward {leaf["reward"]:g}</text>']


def _decisions(leaf: dict[str, Any], place: dict[int, int]) -> list[str]:
    y, parts = _y(place[leaf["number"]]), []
    for seen in leaf["decisions"]:
        x, colour = _x(seen["token"]), FORK if seen["forks"] else NO_FORK
        parts.append(f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}" stroke="{FORK}" stroke-width="1.5"/>')
        said = f"H {seen['entropy']:.2f}, P {seen['probability']:.2f}"
        parts.append(f'<text x="{x + 2}" y="{y - 9}" fill="#333333">{said}</text>')
    return parts


def _legend(height: int) -> list[str]:
    y, parts = height - 20, []
    for x, colour, said in ((10, SAMPLED, "sampled by the model"), (170, RESULT, "tool result")):
        parts.append(f'<path d="M{x} {y}h20" stroke="{colour}" stroke-width="6"/>')
        parts.append(f'<text x="{x + 26}" y="{y + 4}">{said}</text>')
    for x, colour, said in ((290, FORK, "forks"), (370, NO_FORK, "does not fork")):
        parts.append(f'<circle cx="{x}" cy="{y}" r="5" fill="{colour}" stroke="{FORK}" stroke-width="1.5"/>')
        parts.append(f'<text x="{x + 10}" y="{y + 4}">{said}</text>')
    said = "H: entropy after the result in nats; P: probability of a fork"
    return [*parts, f'<text x="490" y="{y + 4}">{said}</text>']


if __name__ == "__main__":
    (FOLDER / "tree.svg").write_text(draw(json.loads((FOLDER / "tree.json").read_text())))
