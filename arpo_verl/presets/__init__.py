"""One algorithm of the family a file: the settings of rule, advantage, loss and replay that make it, and what it needs.

`arpo.preset=tree_grpo` fills in what `tree_grpo.yaml` sets; keys that are set otherwise win. One of the user's own is
the path of such a file. Adding one is adding a file: nothing else lists the names.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).parent
SUFFIX = ".yaml"


@dataclass(frozen=True)
class Preset:
    """An algorithm as settings."""

    name: str
    title: str
    """What its authors call it."""
    summary: str
    """What it does, in a line."""
    paper: str | None = None
    """Its number on arXiv."""
    needs: str = "rewards alone"
    """What it can't do without, beside a reward for each leaf."""
    costs: str = "as ARPO"
    """What a step costs, compared with ARPO's."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Values by verl's dotted keys."""
    asks: Sequence[str] = ()
    """Overrides that a run has to add, with values that are examples."""
    unavailable: str | None = None
    """Why it can't be run, where it can't."""

    def __post_init__(self) -> None:
        if bool(self.settings) == bool(self.unavailable):
            raise ValueError(
                f"the preset {self.name} has settings={dict(self.settings)} and unavailable={self.unavailable!r}; "
                f"expected one of them: leave the other out"
            )


def preset_names() -> tuple[str, ...]:
    """Return the names of the shipped presets, in alphabetical order."""
    return tuple(sorted(file.stem for file in FOLDER.glob(f"*{SUFFIX}")))


def load_preset(name: str) -> Preset:
    """Return a shipped preset, or the user's own by the path of its file.

    Raises:
        ValueError: there is none, or its file is not one.
    """
    is_file = name.endswith(SUFFIX)
    if not is_file and name not in preset_names():
        raise ValueError(
            f"arpo.preset={name!r}; expected one of {', '.join(preset_names())}, or the path of a file that ends in "
            f"{SUFFIX}: change it"
        )
    file = Path(name) if is_file else FOLDER / f"{name}{SUFFIX}"
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise ValueError(f"arpo.preset={name!r} can't be read ({reason}); expected a YAML file: correct it") from error
    known = {one.name for one in fields(Preset)} - {"name"}
    if not isinstance(values, dict) or not {"title", "summary"} <= set(values) <= known:
        got = sorted(map(str, values)) if isinstance(values, dict) else type(values).__name__
        raise ValueError(
            f"arpo.preset={name!r} has the keys {got}; expected title, summary and settings, and of {sorted(known)} "
            f"what else there is to say: correct them"
        )
    _require_dotted_keys(name, values.get("settings") or {})
    return Preset(file.stem, **values)


def _require_dotted_keys(name: str, settings: Any) -> None:
    is_mapping = isinstance(settings, Mapping)
    groups = [
        key
        for key, value in (settings.items() if is_mapping else ())
        if "." not in str(key) or (isinstance(value, Mapping) and not str(key).startswith("arpo."))
    ]
    if not is_mapping or groups:
        raise ValueError(
            f"arpo.preset={name!r} has settings of whole groups ({groups or settings}); expected values by verl's "
            f"dotted keys, such as arpo.rule: top_k: write them so"
        )
