"""The typed configuration of ARPO: the top-level group `arpo` of a verl configuration."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_type_hints

from arpo_verl.config.branching import BranchingKnobs
from arpo_verl.config.knob import require, types_of
from arpo_verl.config.limits import LimitKnobs, ToolKnobs
from arpo_verl.config.logs import LogKnobs
from arpo_verl.config.preset import PresetKnobs
from arpo_verl.config.syntax import SyntaxKnobs
from arpo_verl.config.training import TrainingKnobs


# The fields of a dataclass begin with those of its last base.
@dataclass(frozen=True)
class ArpoConfig(SyntaxKnobs, LogKnobs, LimitKnobs, ToolKnobs, TrainingKnobs, BranchingKnobs, PresetKnobs):
    """Every knob of ARPO, in groups: preset, branching, training, tools, limits, logs, syntax.

    The global rollout size M is verl's own `actor_rollout_ref.rollout.n`.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            check = field.metadata["check"]
            if check is not None:
                value = getattr(self, field.name)
                require(check.is_valid(value), field.name, value, check.expected)
        self.check_branching()
        self.check_training()
        self.check_tools()
        self.check_syntax()

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "ArpoConfig":
        """Return the configuration of a plain mapping.

        Raises:
            ValueError: a key is unknown, a value has the wrong type or is out of range.
        """
        hints = get_type_hints(cls)
        known = [field.name for field in dataclasses.fields(cls)]
        for name, value in values.items():
            if name not in known:
                raise ValueError(
                    f"arpo.{name} is not a known key; expected one of {', '.join(known)}: correct its name"
                )
            expected = types_of(hints[name])
            if not isinstance(value, expected) or (isinstance(value, bool) and bool not in expected):
                names = " or ".join("null" if kind is type(None) else kind.__name__ for kind in expected)
                raise ValueError(
                    f"arpo.{name}={value!r} is of type {type(value).__name__}; expected {names}: change it"
                )
        frozen: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
        }
        return cls(**frozen)

    def roots(self, leaves: int) -> int:
        """Return N for M = `leaves`.

        Raises:
            ValueError: N exceeds M.
        """
        if self.initial_rollouts is None:
            return max(1, leaves // 2)
        if self.initial_rollouts > leaves:
            raise ValueError(
                f"arpo.initial_rollouts={self.initial_rollouts} exceeds actor_rollout_ref.rollout.n={leaves}; "
                f"expected at most n: lower it or raise actor_rollout_ref.rollout.n"
            )
        return self.initial_rollouts


GROUPS: dict[str, type] = {
    "Preset": PresetKnobs,
    "Branching": BranchingKnobs,
    "Training": TrainingKnobs,
    "Tools": ToolKnobs,
    "Limits": LimitKnobs,
    "Logs": LogKnobs,
    "Syntax": SyntaxKnobs,
}
"""The groups of knobs by the names that documents give them, in their order."""
