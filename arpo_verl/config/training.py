"""The knobs of training: how sampled tokens are credited and updated, and which leaves train nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from arpo_verl.config.knob import FRACTION, KnobCheck, knob
from arpo_verl.named_parts import ADVANTAGES, LOSSES, REPLAY, TURN_REWARDS

LeafFault = Literal["truncated", "void", "infrastructure"]
"""Why a leaf may be excluded."""


def _are_leaf_faults(value: Any) -> bool:
    return not isinstance(value, str) and all(fault in get_args(LeafFault) for fault in value)


@dataclass(frozen=True)
class TrainingKnobs:
    """The knobs of the advantage, of the loss, and of the leaves that are left out."""

    advantage: str = knob(
        "soft",
        "with `adv_estimator=arpo`. `soft`: GRPO over the leaves; `hard`: a shared token gets the mean of its leaves' "
        "advantages; `term_sum`: a sum of values less baselines, of which the family's are made; or a "
        "function of your own by its dotted path",
    )
    advantage_kwargs: Mapping[str, Any] = knob({}, "its settings, such as `{epsilon: 1.0e-4}`")
    loss: str | None = knob(
        None,
        "the policy loss, with any estimator: the name of one of ours or a function of your own by its dotted path; "
        "none leaves it to verl's `actor.policy_loss.loss_mode`, which knows ours as `arpo_<name>`",
    )
    loss_kwargs: Mapping[str, Any] = knob({}, "its settings")
    replay: str | None = knob(
        None,
        "rows of elsewhere that a step trains on beside its own, with any estimator, in the mode `sync`: `own` "
        "successes of past steps put into groups that fail, or the `latest` of them; traces of `teachers`; rollouts of "
        "`peers`; `self_imitation`; or a class of your own by its dotted path",
    )
    replay_kwargs: Mapping[str, Any] = knob({}, "its settings, such as `{success: 1.0}`")
    turn_rewards: str | None = knob(
        None,
        "who rewards turns, in training: `tools`, the step rewards of their calls, or a function of your own by its "
        "dotted path; none leaves it to a list `turn_rewards` in what the reward function returns",
    )
    turn_reward_kwargs: Mapping[str, Any] = knob({}, "its settings")
    information_gain: bool = knob(
        False,
        "measure by how much each tool result raises the policy's probability of the gold answer; costs a scoring "
        "request for each distinct result and for the prompt",
    )
    information_gain_kwargs: Mapping[str, Any] = knob(
        {}, "its settings: `template`, how the policy would write the `{answer}`, and `max_seconds` of a request"
    )
    hints: bool = knob(
        False,
        "grow a prompt whose leaves all fail once more with the beginning of its gold solution in the prompt, which "
        "replaces the failed leaves; needs `extra_info.solution` in the data",
    )
    hint_kwargs: Mapping[str, Any] = knob({}, "its settings: `levels`, `threshold`, `first_step`, `field`, `template`")
    pack_trees: str | bool = knob(
        "auto",
        "compute tokens that rows share once, in the update and in the passes before it, with verl's engines `fsdp` "
        "and `fsdp2`: `auto`, where rows share enough and nothing speaks against it, which the log names; `on` stops a "
        "run that can't; `off`. A run without trees packs only where the key is named",
        KnobCheck(lambda value: value in ("auto", "on", "off", True, False), "auto, on or off"),
    )
    exclude: Sequence[LeafFault] = knob(
        ("infrastructure",),
        "leaves that train nothing and count in no statistics: `truncated` (out of tokens or time), `void` (nothing "
        "generated, or interrupted), `infrastructure` (with an infrastructure failure of a tool)",
        KnobCheck(_are_leaf_faults, f"a list of {', '.join(get_args(LeafFault))}"),
    )
    max_infrastructure_fraction: float = knob(
        0.5,
        "share of a step's leaves that may have an infrastructure failure of a tool; above it the run stops; 1 never "
        "stops while there is a leaf to train on",
        FRACTION,
    )
    max_failed_fraction: float = knob(
        0.25,
        "share of a step's leaves that may be lost because the rollout of their prompt or their reward failed; they "
        "train nothing; above it the run stops. Where verl replaces prompts that fail, as in the modes other than "
        "`sync`, also the share of those among all that a step asks for",
        FRACTION,
    )

    @property
    def packing(self) -> str:
        """`arpo.pack_trees` in words: in YAML, `on` and `off` without quotes are true and false."""
        if isinstance(self.pack_trees, bool):
            return "on" if self.pack_trees else "off"
        return self.pack_trees

    def check_training(self) -> None:
        """Raise a ValueError unless advantage, loss, replay and turn rewards are ours or dotted paths."""
        ADVANTAGES.require_name(self.advantage, "arpo.advantage")
        if self.loss is not None:
            LOSSES.require_name(self.loss, "arpo.loss")
        if self.replay is not None:
            REPLAY.require_name(self.replay, "arpo.replay")
        if self.turn_rewards is not None:
            TURN_REWARDS.require_name(self.turn_rewards, "arpo.turn_rewards")
