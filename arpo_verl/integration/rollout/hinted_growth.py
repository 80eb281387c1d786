"""Grows a prompt's tree with hints: holds back its leaves until it is known whether all of them fail."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from verl.experimental.agent_loop.agent_loop import AgentLoopOutput

from arpo_verl.integration.rollout.agent_loop import RECORD, TreeAgentLoop, TreeRequest
from arpo_verl.rollout.hints import HintSettings, grown_with_hints
from arpo_verl.rollout.leaf_signals import SIGNALS
from arpo_verl.rollout.tree import Leaf

HeldLeaf = tuple[Leaf, AgentLoopOutput]
Handle = Callable[[dict[str, Any], Leaf, AgentLoopOutput], Awaitable[Any]]


@dataclass(frozen=True)
class HintedGrowth:
    """What grows the trees of one prompt."""

    settings: HintSettings
    loop: TreeAgentLoop
    request: TreeRequest
    """The size of each tree."""
    sampling_params: dict[str, Any]
    """verl's, for the inference server."""

    async def run(self, sample: dict[str, Any], score: Handle, publish: Handle) -> None:
        """Grow the leaves of the prompt, with hints where all fail, and publish those of the last tree.

        Args:
            sample: the dataset fields of the prompt.
            score: computes the reward of a leaf, which grew from the row that comes first, into its output, and sets
                the leaf's `reward`.
            publish: takes over a leaf, with the row that it grew from.
        """

        async def grow(row: dict[str, Any], hint: float) -> list[HeldLeaf] | None:
            return await self._grow(row, hint, score)

        row, hint, leaves = await grown_with_hints(self.settings, sample, grow, _reward)
        for leaf, output in leaves:
            output.extra_fields[SIGNALS] = output.extra_fields.get(SIGNALS, {}) | {"hint": hint}
            await publish(row, leaf, output)

    async def _grow(self, row: dict[str, Any], hint: float, score: Handle) -> list[HeldLeaf] | None:
        if hint and len((await self.loop.rendered(row)).token_ids) >= self.loop.rollout_config.prompt_length:
            return None  # verl cuts a longer one on the left
        held: list[HeldLeaf] = []

        async def hold(leaf: Leaf, output: AgentLoopOutput) -> None:
            await score(row, leaf, output)
            held.append((leaf, output))

        seed = f"{self.request.seed}/hint {hint:g}" if hint else self.request.seed
        request = replace(self.request, seed=seed)
        await self.loop.grow_tree(dict(self.sampling_params), request, hold, row, partial(score, row))
        return held


def _reward(held: HeldLeaf) -> float | None:
    """Return a leaf's reward; None of one that trains nothing, such as after an infrastructure failure of a tool."""
    leaf, output = held
    return None if output.extra_fields[RECORD]["is_excluded"] else leaf.reward
