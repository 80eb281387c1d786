"""The typed configuration of ARPO: the top-level group `arpo` of a verl configuration."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from arpo_verl.branching import RULES, Rule

EntropySource = Literal["topk", "surprisal"]
BranchTiming = Literal["probe", "segment"]
Schedule = Literal["async", "lockstep"]
Advantage = Literal["soft", "hard"]
Fault = Literal["truncated", "void", "infrastructure"]


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
    """How P_t decides: `bernoulli`, `threshold` or `reference`; see `arpo_verl.branching.draw_forks`.

    `reference` is the released code's decision in its first batch: the first k tokens of the step *before* the result,
    -Σ p log p over their ten most likely tokens, so that the change is 0 at a leaf's first call; a fork's H_initial is
    its own. In later batches that code compares with the H_initial of older prompts, which is not brought back.
    """
    entropy_source: EntropySource = "topk"
    """Where entropies come from; see `arpo_verl.entropy`."""
    entropy_top_k: int = 20
    """K of `entropy_source=topk`. More than 20 needs vLLM's `max_logprobs` raised."""
    branch_timing: BranchTiming = "probe"
    """When to decide: `probe`, after the first k tokens, with a second request for the rest of the turn; `segment`,
    when the turn has ended, with a single request and later forks."""
    schedule: Schedule = "async"
    """`async`: nothing waits for anything else; `lockstep`: the leaves of a prompt advance in rounds, every request has
    a seed of its own, and the same seed gives the same tree, as long as the weights stay the same while it grows: so
    with the trainer `sync`, not with those whose rollout runs ahead of the weights."""
    advantage: Advantage = "soft"
    """How shared tokens are credited; see `arpo_verl.algorithms.arpo`."""
    max_tool_calls: int = 6
    """Calls of one leaf, those of its prefix included; the leaf ends when it asks for one more."""
    max_calls_per_tool: Mapping[str, int] = field(default_factory=dict)
    """Calls of one leaf by tool, within `max_tool_calls`; one more is answered by an error that says so."""
    max_call_seconds: float = 120.0
    """Wall-clock limit of a call with its retries, beside the tool's own, as in the released code. Then the call is
    cancelled; it counts as failed by no fault of the model."""
    max_leaf_seconds: float | None = None
    """Wall-clock limit of a leaf, its prefix and generation included. It is looked at between turns and ends calls, not
    generation requests. None is no limit. With it, `schedule=lockstep` gives the same tree only if no leaf runs out."""
    stuck_call_seconds: float = 60.0
    """A call older than this is named in the log."""
    infrastructure_retries: int = 1
    """How often a call that failed by no fault of the model is made again, beside the tool's own retries."""
    exclude: Sequence[Fault] = ("infrastructure",)
    """Which leaves train nothing and do not count in their group's statistics: `truncated` (out of tokens or time),
    `void` (nothing generated, or interrupted), `infrastructure` (a tool failed by no fault of the model)."""
    max_infrastructure_fraction: float = 0.5
    """Share of a step's leaves in which a tool may fail by no fault of the model; above it the run stops. 1 never stops
    while there is a leaf to train on."""
    max_failed_fraction: float = 0.25
    """Share of a step's leaves that may be lost because the rollout of their prompt or their reward failed. They train
    nothing; above it the run stops. 0 stops at the first, 1 never."""
    max_reward_seconds: float = 300.0
    """Wall-clock limit of one leaf's reward. A leaf without a reward in time is lost."""
    max_stall_seconds: float = 1800.0
    """The run stops when it has waited this long for leaves and none has come. More than the longest generation
    takes."""
    max_requests_in_flight: int | None = None
    """Generation requests of one agent loop worker at a time; None is no limit."""
    max_tool_calls_in_flight: int | None = None
    """Tool calls of one agent loop worker at a time; None is no limit."""
    tag_open: str = "<{tool}>"
    """Opening tag of a call in the format `arpo_tags`; {tool} is the tool's name."""
    tag_close: str = "</{tool}>"
    """Closing tag of a call; {tool} is the tool's name."""
    result_template: str = " <result>\n{result}\n</result>"
    """What is inserted for a tool's result; {result} is its text."""
    seed: int = 0
    """Seed of the branching draws, and of sampling under `schedule=lockstep`; else verl's `rollout.seed` rules that."""

    def __post_init__(self) -> None:
        for name in ("initial_rollouts", "max_requests_in_flight", "max_tool_calls_in_flight"):
            value = getattr(self, name)
            _expect(value is None or value >= 1, name, value, "at least 1, or null")
        _expect(self.branch_factor >= 1, "branch_factor", self.branch_factor, "at least 1 (1 never branches)")
        _expect(0 <= self.base_probability <= 1, "base_probability", self.base_probability, "a number from 0 to 1")
        _expect(0 <= self.entropy_weight < math.inf, "entropy_weight", self.entropy_weight, "a number of at least 0")
        _expect(self.branch_threshold >= 0, "branch_threshold", self.branch_threshold, "a number of at least 0")
        _expect(self.probe_tokens >= 1, "probe_tokens", self.probe_tokens, "at least 1")
        _expect(self.entropy_top_k >= 1, "entropy_top_k", self.entropy_top_k, "at least 1")
        self._check_tool_limits()
        for name, choices in CHOICES.items():
            _expect(getattr(self, name) in choices, name, getattr(self, name), f"one of {', '.join(choices)}")
        is_list = not isinstance(self.exclude, str) and all(fault in get_args(Fault) for fault in self.exclude)
        _expect(is_list, "exclude", self.exclude, f"a list of {', '.join(get_args(Fault))}")
        self._check_tags()
        is_measured = self.rule != "reference" or self.entropy_source == "topk"
        _expect(is_measured, "entropy_source", self.entropy_source, "'topk' with arpo.rule=reference")

    def _check_tool_limits(self) -> None:
        for name in ("max_tool_calls", "infrastructure_retries"):
            _expect(getattr(self, name) >= 0, name, getattr(self, name), "at least 0")
        for name in ("max_call_seconds", "stuck_call_seconds", "max_reward_seconds", "max_stall_seconds"):
            _expect(0 < getattr(self, name) < math.inf, name, getattr(self, name), "a positive number of seconds")
        is_time = self.max_leaf_seconds is None or 0 < self.max_leaf_seconds < math.inf
        _expect(is_time, "max_leaf_seconds", self.max_leaf_seconds, "a positive number of seconds, or null")
        for name in ("max_infrastructure_fraction", "max_failed_fraction"):
            _expect(0 <= getattr(self, name) <= 1, name, getattr(self, name), "a number from 0 to 1")
        for name, most in self.max_calls_per_tool.items():
            is_count = isinstance(most, int) and not isinstance(most, bool) and most >= 0
            _expect(is_count, f"max_calls_per_tool.{name}", most, "a whole number of at least 0")

    def _check_tags(self) -> None:
        for name, part in (("tag_open", "{tool}"), ("tag_close", "{tool}"), ("result_template", "{result}")):
            value = getattr(self, name)
            _expect(value.count(part) == 1, name, value, f"a text with {part} in it, once")
        _expect(self.tag_open != self.tag_close, "tag_close", self.tag_close, "another text than arpo.tag_open")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "ArpoConfig":
        """Return the configuration of a plain mapping.

        Raises:
            ValueError: a key is unknown, a value has the wrong type or is out of range.
        """
        known = get_type_hints(cls)
        for name, value in values.items():
            if name not in known:
                raise ValueError(
                    f"arpo.{name} is not a known key; expected one of {', '.join(known)}: correct its name"
                )
            expected = _types_of(known[name])
            if isinstance(value, bool) or not isinstance(value, expected):
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


CHOICES: dict[str, tuple[str, ...]] = {
    "rule": RULES,
    "entropy_source": get_args(EntropySource),
    "branch_timing": get_args(BranchTiming),
    "schedule": get_args(Schedule),
    "advantage": get_args(Advantage),
}


def _types_of(hint: Any) -> tuple[type, ...]:
    """Return the types of YAML values that a field of a type may have."""
    origin = get_origin(hint)
    if origin in (Union, UnionType):
        return tuple(kind for part in get_args(hint) for kind in _types_of(part))
    if origin is Literal:
        return (str,)
    if origin is Sequence:
        return (list,)
    if origin is Mapping:
        return (dict,)
    return (int, float) if hint is float else (hint,)


def _expect(is_good: bool, name: str, value: object, expected: str) -> None:
    if not is_good:
        raise ValueError(f"arpo.{name}={value!r}; expected {expected}: change it")
