"""Small worlds in which the gradient is known: three decisions a leaf, a tool's result after the first and the second.

The policy is a table of softmax distributions, one for each way to get to a decision. The gradient of the expected
reward by their logits is a sum over all ways; what rollouts and an advantage make of it is compared with that.
"""

import asyncio
import itertools
import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import torch

from arpo_verl.advantages import TreeBatch
from arpo_verl.advantages.term_sum import term_sum
from arpo_verl.config import ArpoConfig
from arpo_verl.rollout.protocols import Generation, GenerationRequest, RenderedResults, ToolAnswer, ToolCall, Turn
from arpo_verl.rollout.rule import BranchingRule, ForkPoint
from arpo_verl.rollout.scheduler import PromptRollout
from arpo_verl.rollout.tree import Decision, Leaf
from arpo_verl.rollout.turns import RolloutServices, RolloutSettings

TURNS, ACTIONS = 3, 4
TURN_TOKENS, RESULT_TOKENS = 10, 2
POSITIONS = 16
"""More than a turn and its result have tokens."""
CALL_TOKENS = 10
"""What a call costs, in sampled tokens."""
VOCABULARY = 151_665

Way = tuple[int, ...]
"""The actions from the prompt to a decision, or to the end."""


@dataclass(frozen=True)
class Kind:
    """A kind of question."""

    source: str
    policy: Callable[[Way], Sequence[float]]
    """Probabilities of the actions after a way."""
    success: Callable[[Way], float]
    """Probability of the reward 1 at the end of a way; else it is 0."""
    status: Callable[[Way], str] = lambda way: "ok"
    """Status of the tool's result after a way."""

    def ways(self, decisions: int) -> Iterator[Way]:
        return itertools.product(range(ACTIONS), repeat=decisions)

    def entropy(self, way: Way) -> float:
        """Return the entropy of the decision after a way, in nats."""
        return -sum(one * math.log(one) for one in self.policy(way) if one > 0)

    @cache  # noqa: B019  a world has few kinds
    def gradient(self) -> dict[Way, np.ndarray]:
        """Return the derivative of the expected reward by the logits of each decision."""
        value: dict[Way, float] = {way: self.success(way) for way in self.ways(TURNS)}
        reach: dict[Way, float] = {(): 1.0}
        for decisions in range(TURNS):
            for way in self.ways(decisions):
                reach.update({(*way, a): reach[way] * one for a, one in enumerate(self.policy(way))})
        for decisions in reversed(range(TURNS)):
            for way in self.ways(decisions):
                value[way] = sum(one * value[(*way, a)] for a, one in enumerate(self.policy(way)))
        return {
            way: reach[way]
            * np.array([one * (value[(*way, a)] - value[way]) for a, one in enumerate(self.policy(way))])
            for decisions in range(TURNS)
            for way in self.ways(decisions)
        }


@dataclass
class DecisionWorld:
    """Engine, tools and call syntax of prompts of some kinds. A token's number says where in which way it is."""

    kinds: Sequence[Kind]
    places: list[tuple[int, Way]] = field(default_factory=list)
    numbers: dict[tuple[int, Way], int] = field(default_factory=dict)

    def tokens(self, kind: int, way: Way, start: int, end: int) -> list[int]:
        number = self.numbers.setdefault((kind, way), len(self.places))
        if number == len(self.places):
            self.places.append((kind, way))
        return list(range(number * POSITIONS + start, number * POSITIONS + end))

    def at(self, token_id: int) -> tuple[int, Way, int]:
        number, position = divmod(token_id, POSITIONS)
        return *self.places[number], position

    def prompt(self, kind: int) -> list[int]:
        return self.tokens(kind, (), 0, 1)

    async def generate(self, request: GenerationRequest) -> Generation:
        kind, way, _ = self.at(request.token_ids[-1])
        probabilities = self.kinds[kind].policy(way)
        [action] = random.Random(request.seed).choices(range(ACTIONS), probabilities)
        tokens = self.tokens(kind, (*way, action), 0, TURN_TOKENS)
        entropies = [self.kinds[kind].entropy(way)] * min(TURN_TOKENS, request.entropy_tokens)
        return Generation(tokens, [math.log(probabilities[action]) / TURN_TOKENS] * TURN_TOKENS, entropies)

    async def execute(self, call: ToolCall, state: dict[str, Any], messages: Sequence[dict[str, Any]]) -> ToolAnswer:
        kind, way, _ = self.at(int(str(call.arguments)))
        return ToolAnswer("", self.kinds[kind].status(way))

    def can_fork(self, name: str) -> bool:
        return True

    def ends_answer(self, token_id: int) -> bool:
        return len(self.at(token_id)[1]) == TURNS

    async def is_over(self, token_ids: list[int]) -> bool:
        return True

    async def read_turn(self, token_ids: list[int]) -> Turn:
        last = token_ids[-1]
        calls = [] if self.ends_answer(last) else [ToolCall("tool", str(last))]
        return Turn(calls, used=len(token_ids))

    async def render_results(
        self, context: list[int], messages: Sequence[dict[str, Any]], answers: Sequence[ToolAnswer]
    ) -> RenderedResults:
        kind, way, _ = self.at(context[-1])
        return RenderedResults(self.tokens(kind, way, TURN_TOKENS, TURN_TOKENS + RESULT_TOKENS))

    def grow(
        self, kinds: Sequence[int], rule: BranchingRule, config: ArpoConfig, leaves: int, seed: str
    ) -> list[list[Leaf]]:
        """Return the leaves of prompts of some kinds, with their rewards."""

        async def one(number: int, kind: int) -> list[Leaf]:
            grown: list[Leaf] = []

            async def on_leaf(leaf: Leaf) -> None:
                _, way, _ = self.at(leaf.token_ids[-1])
                draw = random.Random(f"{seed}/{number}/{leaf.number}").random()
                leaf.reward = float(draw < self.kinds[kind].success(way))
                grown.append(leaf)

            settings = RolloutSettings(
                self.prompt(kind), leaves, 1000, VOCABULARY, f"{seed}/{number}", source=self.kinds[kind].source
            )
            services = RolloutServices(self, self, self, on_leaf)
            await PromptRollout(settings, config, rule, services).run()
            return grown

        async def all_of_them() -> list[list[Leaf]]:
            return [await one(number, kind) for number, kind in enumerate(kinds)]

        return asyncio.run(all_of_them())


class SecondResult(BranchingRule):
    """Forks every leaf once at its second result, while there are places, and nowhere else."""

    def decide(self, point: ForkPoint) -> Decision:
        return Decision(int(point.leaf.tool_turns == 2), "second_result")


def cost_of(leaves: Sequence[Leaf]) -> float:
    """Return what the leaves of a prompt cost: what they share once, a call as `CALL_TOKENS` tokens."""
    segments = {one.id: one for leaf in leaves for one in leaf.segments}.values()
    return sum(len(one.token_ids) if one.is_sampled else CALL_TOKENS for one in segments)


def squared_errors(
    world: DecisionWorld, kinds: Sequence[int], trees: Sequence[Sequence[Leaf]], advantage: Mapping[str, Any]
) -> list[float]:
    """Return, for each prompt, the squared distance of its estimated gradient from the true one.

    Args:
        world: the trees'.
        kinds: of the prompts.
        trees: the leaves of each.
        advantage: settings of `term_sum`.
    """
    leaves = [leaf for tree in trees for leaf in tree]
    width = max(leaf.length for leaf in leaves)
    ids = torch.full((len(leaves), width), -1)
    mask, rewards = torch.zeros(len(leaves), width), torch.zeros(len(leaves), width, dtype=torch.float64)
    for row, leaf in enumerate(leaves):
        ids[row, : leaf.length] = torch.tensor(leaf.segment_ids)
        mask[row, : leaf.length] = torch.tensor(leaf.response_mask, dtype=torch.float32)
        rewards[row, 0] = leaf.reward or 0.0
    prompt = torch.tensor([number for number, tree in enumerate(trees) for _ in tree])
    none = torch.zeros(len(leaves), dtype=torch.bool)
    by_token = term_sum(TreeBatch(rewards, mask, prompt, none, ids), **advantage).tolist()
    errors, row = [], 0
    for kind, tree in zip(kinds, trees, strict=True):
        estimate = {way: -one for way, one in world.kinds[kind].gradient().items()}
        for leaf in tree:
            position = 0
            for segment in leaf.segments:
                if segment.is_sampled:
                    _, way, _ = world.at(segment.token_ids[0])
                    before = way[:-1]
                    score = -np.array(world.kinds[kind].policy(before))
                    score[way[-1]] += 1
                    estimate[before] = estimate[before] + by_token[row][position] / len(tree) * score
                position += len(segment.token_ids)
            row += 1
        errors.append(float(sum((one**2).sum() for one in estimate.values())))
    return errors
