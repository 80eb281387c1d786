"""The turns of a finished leaf, as segments and as texts."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from arpo_verl.rollout.tree import Leaf, Segment
from arpo_verl.turn_rewards import LeafTurns, Turn, TurnCall


def turn_segments(leaf: Leaf) -> list[tuple[Segment, Segment | None]]:
    """Return each turn of a leaf with the tool result that follows it, None where none does.

    A turn is a sampled segment with at least one token: that is how `TreeBatch.turn_ids` counts them too.
    """
    turns: list[tuple[Segment, Segment | None]] = []
    for segment in leaf.segments:
        if segment.is_sampled and segment.token_ids:
            turns.append((segment, None))
        elif not segment.is_sampled and turns and turns[-1][1] is None:
            turns[-1] = (turns[-1][0], segment)
    return turns


def described(leaf: Leaf, decode: Callable[[Sequence[int]], str], sample: Mapping[str, Any], step: int) -> LeafTurns:
    """Return a leaf as a function of turn rewards sees it.

    Args:
        leaf: a finished one.
        decode: returns the text of tokens.
        sample: the fields of its dataset row.
        step: the training step that the prompt was drawn for.
    """
    assert leaf.stop_reason is not None, f"leaf {leaf.path} is still alive"
    return LeafTurns(
        turns=tuple(_turn(sampled, result, decode) for sampled, result in turn_segments(leaf)),
        stop_reason=leaf.stop_reason.value,
        ground_truth=(sample.get("reward_model") or {}).get("ground_truth"),
        step=step,
        sample=sample,
    )


def _turn(sampled: Segment, result: Segment | None, decode: Callable[[Sequence[int]], str]) -> Turn:
    if result is None:
        return Turn(decode(sampled.token_ids))
    calls = tuple(
        TurnCall(call.name, call.arguments, call.status, call.result, call.reward, call.latency_seconds, call.retries)
        for call in result.calls
    )
    return Turn(decode(sampled.token_ids), calls, decode(result.token_ids))
