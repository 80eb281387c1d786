"""What is written about the knobs elsewhere, derived from them: the preset's group and the table of docs/knobs.md.

python tests/shared/knob_documents.py    # writes both again; a test compares them
"""

import dataclasses
from pathlib import Path
from typing import Any

import yaml

from arpo_verl.config.arpo_config import GROUPS, ArpoConfig

ROOT = Path(__file__).parents[2]
PRESET = ROOT / "arpo_verl" / "config" / "arpo_trainer.yaml"
KNOBS = ROOT / "docs" / "knobs.md"
PRESET_MARKS = ("arpo:\n", "\nalgorithm:\n")
TABLE_MARKS = ("| key | paper | default | meaning |\n|---|---|---|---|\n", "\n\n")
"""What stands before and after the derived lines."""


def preset_group() -> str:
    """Return the lines of the preset's group `arpo`: every knob with its default."""
    lines = []
    for group, kind in GROUPS.items():
        lines.append(f"  # {group}")
        lines += [f"  {field.name}: {_in_yaml(_default(field))}" for field in dataclasses.fields(kind)]
    return "\n".join(lines) + "\n"


def knob_table() -> str:
    """Return the rows of the table of docs/knobs.md."""
    rows = ["| `actor_rollout_ref.rollout.n` | M | 16 in the preset | leaves a prompt; always exactly this many |"]
    for group, kind in GROUPS.items():
        rows.append(f"| **{group}** | | | |")
        rows += [_row(field) for field in dataclasses.fields(kind)]
    return "\n".join(rows)


def _row(field: "dataclasses.Field[Any]") -> str:
    shown = field.metadata["shown"] or _shown(_default(field))
    symbol = f"{field.metadata['symbol']} " if field.metadata["symbol"] else ""
    return f"| `arpo.{field.name}` | {symbol}| {shown} | {field.metadata['meaning']} |"


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, (bool, tuple, dict)):
        return f"`{_in_yaml(value)}`"
    return f"`{value}`".replace("\n", "\\n") if isinstance(value, str) else f"{value:g}"


def _default(field: "dataclasses.Field[Any]") -> Any:
    return getattr(ArpoConfig(), field.name)


def _in_yaml(value: Any) -> str:
    if isinstance(value, str) and not value.isidentifier():
        return yaml.safe_dump(value, default_style='"', width=1000).strip()
    value = list(value) if isinstance(value, tuple) else value
    return yaml.safe_dump(value, default_flow_style=True, width=1000).splitlines()[0]


def with_derived(text: str, derived: str, marks: tuple[str, str]) -> str:
    """Return a document with what stands between two marks replaced by `derived`."""
    before, start, rest = text.partition(marks[0])
    _, end, after = rest.partition(marks[1])
    return before + start + derived + end + after


def documents() -> dict[Path, str]:
    """Return each document as it should be."""
    return {
        PRESET: with_derived(PRESET.read_text(), preset_group(), PRESET_MARKS),
        KNOBS: with_derived(KNOBS.read_text(), knob_table(), TABLE_MARKS),
    }


if __name__ == "__main__":
    for path, text in documents().items():
        path.write_text(text)
