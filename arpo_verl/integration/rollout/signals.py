"""The signals of a prompt's leaves beside their rewards: rewards of turns and information gains.

They are computed as each leaf ends, while others still grow, and only in training.
"""

import asyncio
import logging
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig

from arpo_verl.integration.rollout.in_flight import slot
from arpo_verl.integration.rollout.turn_rewards import TurnRewardFunction
from arpo_verl.integration.serving.engine import ServerEngine
from arpo_verl.integration.serving.scoring import ScoringClient
from arpo_verl.integration.settings import arpo_config
from arpo_verl.reward.accepted import accepted_answers
from arpo_verl.rollout.gold_answer import gold_answer
from arpo_verl.rollout.information_gain import InformationGain
from arpo_verl.rollout.leaf_signals import LeafSignals
from arpo_verl.rollout.leaf_turns import described
from arpo_verl.rollout.tree import Leaf

logger = logging.getLogger(__name__)

is_validation: ContextVar[bool] = ContextVar("is_validation", default=False)
"""Whether the prompt that is rolled out is one of a validation, of which nothing is trained."""


@dataclass(frozen=True)
class GainSettings:
    """The settings of the information gain, `arpo.information_gain_kwargs`."""

    template: str = "<answer>The answer is \\boxed{{answer}}</answer>"
    """What the policy would write next if it gave the answer now; `{answer}` is the gold answer. The default is the
    form that this package's system prompt teaches and its reward reads."""
    max_seconds: float = 60.0
    """Wall-clock limit of one scoring request."""

    def __post_init__(self) -> None:
        if not isinstance(self.template, str) or self.template.count("{answer}") != 1:
            raise ValueError(
                f"arpo.information_gain_kwargs.template={self.template!r}; expected a text with {{answer}} in it, "
                f"once, such as '<answer>{{answer}}</answer>': change it"
            )
        is_number = isinstance(self.max_seconds, (int, float)) and not isinstance(self.max_seconds, bool)
        if not is_number or not 0 < self.max_seconds < float("inf"):
            raise ValueError(
                f"arpo.information_gain_kwargs.max_seconds={self.max_seconds!r}; expected a positive number of "
                f"seconds: change it"
            )


@dataclass(frozen=True)
class SignalSource:
    """What a run asks for."""

    turn_rewards: TurnRewardFunction | None
    gain: GainSettings | None
    max_requests_in_flight: int | None

    @classmethod
    def of(cls, config: DictConfig) -> "SignalSource":
        """Return what a configuration asks for.

        Raises:
            ValueError: a function can't be found, or a setting is not known or can't be used.
        """
        arpo = arpo_config(config)
        gain = None
        if arpo.information_gain:
            known = GainSettings.__dataclass_fields__
            for name in arpo.information_gain_kwargs:
                if name not in known:
                    raise ValueError(
                        f"arpo.information_gain_kwargs.{name} is not a known setting; expected one of {list(known)}: "
                        f"correct its name"
                    )
            gain = GainSettings(**arpo.information_gain_kwargs)
        return cls(TurnRewardFunction.of(arpo), gain, arpo.max_requests_in_flight)

    def of_tree(
        self, engine: ServerEngine, tokenizer: Any, prompt_ids: list[int], sample: Mapping[str, Any]
    ) -> "TreeSignals | None":
        """Return the signals of one prompt's leaves; None where the run asks for none, and in validation.

        Args:
            engine: that of the tree.
            tokenizer: the policy's.
            prompt_ids: the tokens of the prompt.
            sample: the fields of its dataset row.
        """
        if is_validation.get() or (self.turn_rewards is None and self.gain is None):
            return None
        gain = None if self.gain is None else self._gain(self.gain, engine, tokenizer, prompt_ids, sample)
        return TreeSignals(self.turn_rewards, gain, tokenizer, sample)

    def _gain(
        self, settings: GainSettings, engine: ServerEngine, tokenizer: Any, prompt_ids: list[int], sample: Any
    ) -> InformationGain:
        try:
            answers = accepted_answers((sample.get("reward_model") or {}).get("ground_truth"))
            # The first accepted answer alone: others, such as longer forms of a name, have probabilities of their own.
            gold = gold_answer(tokenizer, settings.template, answers[0] if answers else "")
        except ValueError as error:  # pre-flight refuses such data where it can read them
            logger.warning("the leaves of a prompt have no information gain: %s", error)
            return InformationGain(prompt_ids, None, settings.max_seconds)
        client = ScoringClient(engine.client, engine.server, engine.prompt_id)

        async def score(context: list[int], request_id: str) -> list[float]:
            async with slot("request", self.max_requests_in_flight):
                return await client.log_probs(context, gold.token_ids, gold.scored, request_id)

        return InformationGain(prompt_ids, score, settings.max_seconds)


class TreeSignals:
    """Computes the signals of one prompt's leaves. Single use; to be closed at the end."""

    def __init__(
        self,
        turn_rewards: TurnRewardFunction | None,
        gain: InformationGain | None,
        tokenizer: Any,
        sample: Mapping[str, Any],
    ) -> None:
        self._turn_rewards = turn_rewards
        self._gain = gain
        self._tokenizer = tokenizer
        self._sample = sample

    async def of_leaf(self, leaf: Leaf) -> LeafSignals:
        """Return the signals of a finished leaf."""
        rewards, gains = await asyncio.gather(self._rewards_of(leaf), self._gains_of(leaf))
        return LeafSignals(**rewards, **gains)

    async def _rewards_of(self, leaf: Leaf) -> dict[str, Any]:
        if self._turn_rewards is None:
            return {}
        step = int(self._sample.get("global_steps", 0))
        values, failure = await self._turn_rewards.of_leaf(described(leaf, self._tokenizer.decode, self._sample, step))
        return {"turn_rewards": values, "turn_reward_failure": failure}

    async def _gains_of(self, leaf: Leaf) -> dict[str, Any]:
        if self._gain is None:
            return {}
        found = await self._gain.of_leaf(leaf)
        return {
            "info_gains": found.gains,
            "scoring_requests": found.requests,
            "scoring_failures": found.failures,
            "scoring_seconds": found.seconds,
        }

    async def close(self) -> None:
        """End what is still under way."""
        if self._gain is not None:
            await self._gain.close()
