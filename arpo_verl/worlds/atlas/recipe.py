"""What is asked for on the command line, checked."""

import difflib
from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from arpo_verl.worlds.atlas.expert import STRATEGIES
from arpo_verl.worlds.atlas.kinds import KINDS
from arpo_verl.worlds.atlas.styles import STYLES

MOST = 100_000
"""Questions or traces; more would take hours."""


@dataclass(frozen=True)
class Recipe:
    """The words that decide what a world is; the same recipe and packages give the same bytes."""

    questions: int = 2000
    """Training questions."""
    validation: int = 200
    traces: int = 1000
    """Traces for a cold start, about training questions."""
    style: str = "free"
    kinds: tuple[str, ...] = tuple(KINDS)
    strategies: tuple[str, ...] = tuple(STRATEGIES)
    seed: int = 0

    def __post_init__(self) -> None:
        """Check the values.

        Raises:
            ValueError: one is not valid.
        """
        for name, least in (("questions", 1), ("validation", 1), ("traces", 0)):
            if not least <= getattr(self, name) <= MOST:
                raise ValueError(f"--{name} {getattr(self, name)}; expected {least} to {MOST}: change it")
        _check("--style", [self.style], STYLES)
        _check("--kinds", self.kinds, KINDS)
        _check("--strategies", self.strategies, STRATEGIES)
        if "careful" not in self.strategies:
            raise ValueError("--strategies has no careful; expected it among them, as no other suits every question")

    def as_json(self) -> Mapping[str, Any]:
        """Return the values for a file."""
        return asdict(self) | {"kinds": list(self.kinds), "strategies": list(self.strategies)}


def _check(option: str, names: Collection[str], known: Collection[str]) -> None:
    expected = f"expected some of {', '.join(known)}"
    if not names:
        raise ValueError(f"{option} names none; {expected}")
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise ValueError(f"{option} {name!r}; {expected}{f': did you mean {near[0]}?' if near else ''}")
    if len(set(names)) < len(names):
        raise ValueError(f"{option} {','.join(names)} names one twice; expected each once")
