"""The typed configuration of the rollout: the top-level group `arpo` of a verl configuration."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from arpo_verl.branching import RULES, Rule

EntropySource = Literal["surprisal"]
Advantage = Literal["soft"]


@dataclass(frozen=True)
class ArpoConfig:
    """Every knob of ARPO. The defaults are the paper's (appendix C) where it gives a value.

    The global rollout size M is verl's own `actor_rollout_ref.rollout.n`.
    """

    initial_rollouts: int | None = None
    """N, trajectories started from the prompt. None is half of `rollout.n`, the paper's 8 of 16."""
    branch_factor: int = 2
    """Z, the paths that leave a fork point, the parent's own included."""
    base_probability: float = 0.5
    """α, the probability of a fork when the entropy does not change."""
    entropy_weight: float = 0.2
    """β, how much a change of entropy counts."""
    branch_threshold: float = 0.5
    """τ, for `rule=threshold` alone."""
    probe_tokens: int = 20
    """k, tokens watched after a tool result; the paper gives no value, the released code watches 20."""
    rule: Rule = "bernoulli"
    """How P_t decides: `bernoulli` or `threshold`; see `arpo_verl.branching.draw_forks`."""
    advantage: Advantage = "soft"
    """How shared tokens are credited; see `arpo_verl.algorithms.arpo`."""
    entropy_source: EntropySource = "surprisal"
    """Where entropies come from; see `arpo_verl.entropy`."""
    max_tool_calls: int = 6
    """Calls of one leaf, those of its prefix included; the leaf ends when it asks for one more."""
    seed: int = 0
    """Seed of the branching draws; sampling is seeded by verl's `rollout.seed`."""

    def __post_init__(self) -> None:
        if self.initial_rollouts is not None:
            _expect(self.initial_rollouts >= 1, "initial_rollouts", self.initial_rollouts, "at least 1")
        _expect(self.branch_factor >= 1, "branch_factor", self.branch_factor, "at least 1 (1 never branches)")
        _expect(0 <= self.base_probability <= 1, "base_probability", self.base_probability, "a number from 0 to 1")
        _expect(0 <= self.entropy_weight < math.inf, "entropy_weight", self.entropy_weight, "a number of at least 0")
        _expect(self.branch_threshold >= 0, "branch_threshold", self.branch_threshold, "a number of at least 0")
        _expect(self.probe_tokens >= 1, "probe_tokens", self.probe_tokens, "at least 1")
        _expect(self.max_tool_calls >= 0, "max_tool_calls", self.max_tool_calls, "at least 0")
        _expect(self.rule in RULES, "rule", self.rule, f"one of {', '.join(RULES)}")
        _expect(self.advantage in get_args(Advantage), "advantage", self.advantage, "soft")
        _expect(self.entropy_source in get_args(EntropySource), "entropy_source", self.entropy_source, "surprisal")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "ArpoConfig":
        """Return the configuration of a plain mapping.

        Raises:
            ValueError: a key is unknown, a value has the wrong type or is out of range.
        """
        known = {field.name: field for field in fields(cls)}
        for name, value in values.items():
            if name not in known:
                raise ValueError(
                    f"arpo.{name} is not a known key; expected one of {', '.join(known)}: correct its name"
                )
            default = known[name].default
            expected = (int, float) if isinstance(default, float) else (int if default is None else type(default),)
            is_bool = isinstance(value, bool)
            if is_bool or not isinstance(value, (*expected, type(default))):
                names = " or ".join(kind.__name__ for kind in expected)
                raise ValueError(
                    f"arpo.{name}={value!r} is of type {type(value).__name__}; expected {names}: change it"
                )
        return cls(**values)

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


def _expect(is_good: bool, name: str, value: object, expected: str) -> None:
    if not is_good:
        raise ValueError(f"arpo.{name}={value!r}; expected {expected}: change it")
