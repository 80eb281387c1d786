"""The knobs of branching: how many leaves start from the prompt, and where and how often others fork."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arpo_verl.config.knob import (
    FINITE_NOT_NEGATIVE,
    FRACTION,
    NOT_NEGATIVE,
    at_least,
    at_least_or_null,
    knob,
    one_of,
)
from arpo_verl.named_parts import RULES


@dataclass(frozen=True)
class BranchingKnobs:
    """Where and how often trees branch. The defaults are the paper's (appendix C) where it gives a value."""

    rollout: str = knob(
        "auto",
        "`tree`: leaves branch, whatever `algorithm.adv_estimator` is; `linear`: each starts from the prompt, by "
        "verl's own agent loops; `auto`: trees with `adv_estimator=arpo` alone",
        one_of("auto", "tree", "linear"),
    )
    initial_rollouts: int | None = knob(
        None,
        "leaves started from the prompt; M never branches, which is GRPO",
        at_least_or_null(1),
        symbol="N",
        shown="half of M",
    )
    branch_factor: int = knob(
        2,
        "paths that leave a fork point, the parent's own included",
        at_least(1, " (1 never branches)"),
        symbol="Z",
    )
    base_probability: float = knob(0.5, "probability of a fork when the entropy does not change", FRACTION, symbol="α")
    entropy_weight: float = knob(
        0.2, "weight of the change of entropy; 0 branches at random", FINITE_NOT_NEGATIVE, symbol="β"
    )
    branch_threshold: float = knob(0.5, "for `rule=threshold`", NOT_NEGATIVE, symbol="τ")
    probe_tokens: int = knob(
        20,
        "tokens watched after a tool result; the paper gives no value, the released code watches 20",
        at_least(1),
        symbol="k",
    )
    rule: str = knob(
        "bernoulli",
        "`bernoulli`: each fork with probability clip(α + β ΔH, 0, 1); `threshold`: forks iff α + β ΔH > τ; "
        "`reference`: the released code's decision in its first batch, with `entropy_source=topk` alone; "
        "`expected_variance`: where rewards are expected to differ most for their cost, as learnt from past trees; "
        "`top_k`, `sample`: turns of ended leaves sampled again, in rounds, the best or drawn ones; `linear`: never; "
        "or a class of your own by its dotted path",
    )
    rule_kwargs: Mapping[str, Any] = knob(
        {}, "its settings: rounds, scores, penalties, gates, number of roots ([branching.md](branching.md))"
    )
    top_ups: str = knob(
        "certain",
        "when leaves that do not fork start from the prompt instead: `certain`, once the living leaves can't bring "
        "them any more; `expected`, once they are not expected to, which is faster where few turns call tools",
        one_of("certain", "expected"),
    )
    entropy_source: str = knob(
        "topk",
        "`topk`: measured by our replica; `surprisal`: −log p of the sampled token, from verl's own vLLM",
        one_of("topk", "surprisal"),
    )
    entropy_top_k: int = knob(20, "K of `topk`; more than 20 needs vLLM's `max_logprobs` raised", at_least(1))
    branch_timing: str = knob(
        "probe",
        "`probe`: decide after k tokens, a second request for the rest of the turn; `segment`: one request, decide at "
        "the turn's end",
        one_of("probe", "segment"),
    )
    schedule: str = knob(
        "async",
        "`async`: no barrier; `lockstep`: turn by turn, every request seeded: same seed, same tree, while the weights "
        "stay the same (`sync`) and no leaf runs out of time",
        one_of("async", "lockstep"),
    )
    seed: int = knob(
        0, "seed of the branching draws, and of sampling under `lockstep`; else verl's `rollout.seed` rules that"
    )

    def check_branching(self) -> None:
        """Raise a ValueError unless the rule is one of ours or a dotted path."""
        RULES.require_name(self.rule, "arpo.rule")
