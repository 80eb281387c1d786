"""What a batch's leaves say beside verl's fields, read from the queue in the order of the batch.

The worker writes `segment_ids` and a leaf's record (`extra_fields`), verl's trainer the actor's entropies and
log-probabilities. A leaf without a record, of an agent loop that is not ours, is a tree of its own.
"""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from arpo_verl.advantages import TreeBatch
from arpo_verl.advantages.tree.arguments import PADDING, group_numbers
from arpo_verl.advantages.tree.tree_batch import pad_rows, turn_ids
from arpo_verl.integration.queue import KVBatchMeta, read_columns
from arpo_verl.integration.row_key import prompt_of
from arpo_verl.losses import IS_REPLAY, ROW_WEIGHT
from arpo_verl.rollout.leaf_record import LeafRecord
from arpo_verl.rollout.leaf_signals import INFO_GAINS, TURN_REWARDS, turn_rewards_of, turn_values_of

logger = logging.getLogger(__name__)

IS_APART = "is_apart"
"""Key of the tags of a replayed row; as `IS_REPLAY` and `ROW_WEIGHT`, which are also what a loss calls them."""
_WORDS = {TURN_REWARDS: "rewards of its turns", INFO_GAINS: "information gains"}
REPLAYED, GROWN_REWARD = "replayed", "grown_reward"
"""Key of a row's extra fields with what a replayed row brings along; its other extra fields are of the leaf whose place
it has taken. The second is a key of that: the reward of that leaf."""
FIELDS = ["segment_ids", "response_mask", "rm_scores", "entropy", "old_log_probs"]
"""Columns of the queue; of what is not there nothing comes."""


@dataclass(frozen=True)
class TreeColumns:
    """Rows of a batch, each as long as its response."""

    masks: Sequence[torch.Tensor]
    scores: Sequence[torch.Tensor]
    segment_ids: Sequence[torch.Tensor]
    is_excluded: torch.Tensor
    """Padding rows, those of `arpo.exclude`, and those whose reward is not finite. Shape (batch,)."""
    has_no_reward: torch.Tensor
    """Rows whose reward is not finite. Shape (batch,)."""
    parents: torch.Tensor
    fork_tokens: torch.Tensor
    turn_rewards: torch.Tensor | None
    info_gains: torch.Tensor | None
    entropies: Sequence[torch.Tensor] | None
    log_probs: Sequence[torch.Tensor] | None
    is_apart: torch.Tensor
    """Replayed rows that count in no statistics, and whose advantage is put in its place later. Shape (batch,)."""
    row_weights: Sequence[float]
    """Of the policy loss; 1 for rows that the step has sampled."""
    is_replay: Sequence[bool]
    grown_rewards: Sequence[float]
    """Of the leaves that the step has grown, also where a replayed row has taken a leaf's place."""

    @classmethod
    def read(cls, batch: KVBatchMeta, records: Mapping[str, LeafRecord], fields: Mapping[str, Any]) -> "TreeColumns":
        """Return the columns of a batch.

        Args:
            batch: rows of the queue.
            records: of its leaves, by key; those of verl's own agent loops have none.
            fields: the extra fields of the same leaves, by key.
        """
        data = read_columns(batch.keys, batch.partition_id, FIELDS)
        masks, scores = data["response_mask"], data["rm_scores"]
        is_padding = [bool(tag.get("is_padding", False)) for tag in batch.tags]
        given = data.get("segment_ids", [None] * len(masks))
        has_no_reward = ~torch.stack([one.sum() for one in scores]).isfinite()
        is_left_out = [
            padding or (key in records and records[key].is_excluded)
            for key, padding in zip(batch.keys, is_padding, strict=True)
        ]
        tags = [{} if padding else tag for padding, tag in zip(is_padding, batch.tags, strict=True)]
        is_replay = [bool(tag.get(IS_REPLAY, False)) for tag in tags]
        parents, fork_tokens = _forks(batch.keys, records, is_replay)
        return cls(
            masks=masks,
            scores=scores,
            segment_ids=list(_segment_ids(given, masks, is_padding)),
            is_excluded=has_no_reward | torch.tensor(is_left_out),
            has_no_reward=has_no_reward,
            parents=parents,
            fork_tokens=fork_tokens,
            turn_rewards=_turn_values(TURN_REWARDS, batch.keys, fields),
            info_gains=_turn_values(INFO_GAINS, batch.keys, fields),
            entropies=data.get("entropy"),
            log_probs=data.get("old_log_probs"),
            is_apart=torch.tensor([bool(tag.get(IS_APART, False)) for tag in tags]),
            row_weights=[float(tag.get(ROW_WEIGHT, 1.0)) for tag in tags],
            is_replay=is_replay,
            grown_rewards=[
                _grown_reward(fields.get(key, {}), one) for key, one in zip(batch.keys, scores, strict=True)
            ],
        )

    def batch(self, token_level_rewards: torch.Tensor, response_mask: torch.Tensor, index: Any) -> TreeBatch:
        """Return the batch that an advantage is computed from.

        Args:
            token_level_rewards: verl's, after its own penalties. Shape (batch, response_length).
            response_mask: verl's, after its rejections. Trees are those of the tokens that were sampled, rejected or
                not: a turn of which a token is rejected is still one turn. Shape (batch, response_length).
            index: the prompt of each row.
        """
        rows, width = response_mask.shape
        device = response_mask.device

        def padded(column: Sequence[torch.Tensor] | None, padding: float = 0.0) -> torch.Tensor | None:
            return None if column is None else pad_rows(column, width, padding).to(device)

        return TreeBatch(
            token_level_rewards=token_level_rewards,
            response_mask=pad_rows(self.masks, width, 0).to(response_mask),
            prompt=group_numbers(index, rows, device),
            is_excluded=(self.is_excluded | self.is_apart).to(device),
            segment_ids=padded(self.segment_ids, PADDING),
            parents=self.parents.to(device),
            fork_tokens=self.fork_tokens.to(device),
            turn_rewards=None if self.turn_rewards is None else self.turn_rewards.to(device),
            info_gains=None if self.info_gains is None else self.info_gains.to(device),
            entropies=padded(self.entropies),
            log_probs=padded(self.log_probs),
        )

    def for_loss(self, name: str) -> list[torch.Tensor] | None:
        """Return a column that a loss may name, one value for each token of a response; None for another name."""
        masks = self.masks
        if name == "segment_ids":
            return list(self.segment_ids)
        if name == "turn_ids":
            return [
                turn_ids(mask.unsqueeze(0), ids.unsqueeze(0))[0]
                for mask, ids in zip(masks, self.segment_ids, strict=True)
            ]
        if name == "is_excluded":
            flags = self.is_excluded.tolist()
            return [torch.full_like(mask, int(flag)) for mask, flag in zip(masks, flags, strict=True)]
        if name == ROW_WEIGHT:
            return [torch.full(mask.shape, weight) for mask, weight in zip(masks, self.row_weights, strict=True)]
        if name == IS_REPLAY:
            return [torch.full(mask.shape, is_so) for mask, is_so in zip(masks, self.is_replay, strict=True)]
        return None

    def mean_entropy(self) -> float:
        """Return the mean entropy of all tokens that the step has sampled, in nats; NaN: not known.

        Rows that are excluded or replayed do not count.
        """
        if self.entropies is None:
            return math.nan
        is_out = [
            excluded or replay for excluded, replay in zip(self.is_excluded.tolist(), self.is_replay, strict=True)
        ]
        rows = zip(self.entropies, self.masks, is_out, strict=True)
        sampled = torch.cat([entropy[mask != 0] for entropy, mask, out in rows if not out])
        return float(sampled.mean())


def _segment_ids(
    given: Sequence[torch.Tensor | None], masks: Sequence[torch.Tensor], is_padding: Sequence[bool]
) -> Iterator[torch.Tensor]:
    """Yield the segment of each token. verl's padding rows are copies of a leaf, segments included, with a response of
    one token (`padding_utils.py`); a row without segments has those that its mask shows, and shares none."""
    first = 0
    for ids, mask, padding in zip(given, masks, is_padding, strict=True):
        if padding:
            yield torch.full_like(mask, PADDING)
        elif ids is not None:
            yield ids
        else:
            begins = torch.ones_like(mask, dtype=torch.bool)
            begins[1:] = mask[1:] != mask[:-1]
            own = first + begins.long().cumsum(0)
            first = int(own[-1])
            yield own


def _forks(
    keys: Sequence[str], records: Mapping[str, LeafRecord], is_replay: Sequence[bool]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the row of each leaf's parent, -1 where there is none, and the tokens that they share.

    A replayed row has the record of the leaf whose place it has taken; it has no parent, and is none.
    """
    rows = {(prompt_of(key), records[key].number): row for row, key in enumerate(keys) if key in records}
    parents, fork_tokens = torch.full((len(keys),), -1), torch.zeros(len(keys), dtype=torch.long)
    for row, key in enumerate(keys):
        record = records.get(key)
        if record is None or record.parent is None or is_replay[row]:
            continue
        parent = rows[prompt_of(key), record.parent]
        if not is_replay[parent]:
            parents[row], fork_tokens[row] = parent, record.fork_token or 0
    return parents, fork_tokens


def _turn_values(name: str, keys: Sequence[str], fields: Mapping[str, Any]) -> torch.Tensor | None:
    """Return one of `BY_TURN` of all rows, with NaN where there is none. Shape (batch, turns)."""
    rows = []
    for key in keys:
        values, failure = _of_leaf(fields[key], name) if key in fields else (None, None)
        if failure is not None:
            logger.error("leaf %s has no %s, which trains its other terms alone: %s", key, _WORDS[name], failure)
        rows.append([] if failure is not None else values)
    return _by_turn(rows)


def _of_leaf(extra_fields: Mapping[str, Any], name: str) -> tuple[list[float | None] | None, str | None]:
    if REPLAYED in extra_fields:  # the rest is that of the leaf whose place it has taken
        return ((extra_fields[REPLAYED] or {}).get(name) if name == TURN_REWARDS else None), None
    return turn_rewards_of(extra_fields) if name == TURN_REWARDS else turn_values_of(extra_fields, name)


def _grown_reward(extra_fields: Mapping[str, Any], scores: torch.Tensor) -> float:
    return float(extra_fields[REPLAYED][GROWN_REWARD]) if REPLAYED in extra_fields else float(scores.sum())


def _by_turn(rows: Sequence[Sequence[float | None] | None]) -> torch.Tensor | None:
    """Return one value for each turn, with NaN where there is none; None where no row has any. Shape (batch, turns)."""
    if all(row is None for row in rows):
        return None
    values = [
        torch.tensor([math.nan if one is None else one for one in row or []], dtype=torch.float64) for row in rows
    ]
    # At least one column: an advantage reads the last one for a turn that has no value.
    return pad_rows(values, max(1, *map(len, values)), math.nan)
