"""The trees of a run's record, as the diagnostics of training have them."""

from collections.abc import Sequence
from dataclasses import replace

import torch

from arpo_verl.diagnostics import GrownTrees
from arpo_verl.record import RecordedCall, RecordedLeaf, RecordedPrompt
from arpo_verl.rollout.leaf_record import LeafRecord, SegmentRecord, ToolCallRecord


def trees_of(prompts: Sequence[RecordedPrompt]) -> GrownTrees:
    """Return the trees of prompts, each of which is one, whatever its name; without replayed rows.

    Args:
        prompts: of one step or several.
    """
    rows = [
        (number, prompt, leaf)
        for number, prompt in enumerate(prompts)
        for leaf in prompt.leaves
        if leaf.replayed_step is None
    ]
    return GrownTrees.of(
        [_leaf_record(prompt, leaf) for _, prompt, leaf in rows],
        [number for number, _, _ in rows],
        [float("nan") if leaf.reward is None else leaf.reward for _, _, leaf in rows],
    )


def _leaf_record(prompt: RecordedPrompt, leaf: RecordedLeaf) -> LeafRecord:
    segments = [(place, prompt.segments[place]) for place in leaf.segments]
    return LeafRecord(
        leaves=len(prompt.leaves),
        number=leaf.number,
        parent=leaf.parent,
        path=leaf.path,
        fork_token=leaf.fork_token,
        is_top_up=leaf.is_top_up,
        stop_reason=leaf.stop_reason,
        is_result_cut=leaf.is_result_cut,
        is_excluded=leaf.is_excluded,
        segments=[
            SegmentRecord(place, one.tokens, one.is_sampled, one.times, one.waited, one.weight_versions)
            for place, one in segments
        ],
        calls=[_call_record(place, call) for place, one in segments for call in one.calls],
        entropy_initial=None,
        decisions=list(leaf.decisions),
        weight_versions=None,
        requested_tokens=leaf.requested_tokens,
        cached_tokens=leaf.cached_tokens,
        refusals=list(leaf.refusals),
    )


def _call_record(place: int, call: RecordedCall) -> ToolCallRecord:
    return ToolCallRecord(place, call.tool, call.status, call.seconds, call.retries)


def in_seconds(trees: GrownTrees) -> GrownTrees | None:
    """Return the same trees with seconds of sampling for tokens and seconds of tools for calls.

    A segment's seconds are those between request and end, less those that it waited for others in flight; what leaves
    grow at the same time is not told apart. A prompt with a sampled segment without times has 0 seconds in all, which
    leaves it out of ratios of sums. None where no prompt has times.

    Args:
        trees: as grown.
    """
    without = {
        prompt
        for record, prompt in zip(trees.records, trees.prompts, strict=True)
        if any(segment.is_sampled and segment.times is None for segment in record.segments)
    }
    if without >= set(trees.prompts):
        return None
    width = trees.tokens.shape[1]
    sampling = torch.zeros(trees.tokens.shape, dtype=torch.float64)
    calling = torch.zeros(trees.tokens.shape, dtype=torch.float64)
    for row, (record, prompt) in enumerate(zip(trees.records, trees.prompts, strict=True)):
        if prompt in without:
            continue
        place_of = {segment.id: place for place, segment in enumerate(record.segments[:width])}
        for place, segment in enumerate(record.segments):
            if segment.is_sampled and segment.times is not None:
                spent = segment.times[1] - segment.times[0] - segment.waited_seconds
                sampling[row, place] = max(0.0, spent)
        for call in record.calls:
            calling[row, place_of[call.segment]] += call.latency_seconds
    return replace(trees, tokens=sampling, calls=calling)
