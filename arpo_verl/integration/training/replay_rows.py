"""Reads a step's groups from the queue, and puts replayed rows there. Written against verl 0.9.1.

A replayed row takes the place of a leaf under the leaf's key, or comes to the batch under a key of its own. Either way
it has every column that `AgentLoopWorkerTQ._agent_loop_postprocess` (`trainer/ppo/v1/agent_loop_tq.py`) gives a row, so
that verl's own passes take it as any other.
"""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from arpo_verl.integration.queue import Column, KVBatchMeta, Tags, put_columns, read_columns
from arpo_verl.integration.row_key import prompt_of, session_of
from arpo_verl.integration.training.tree_columns import GROWN_REWARD, IS_APART, REPLAYED
from arpo_verl.losses import IS_REPLAY, ROW_WEIGHT
from arpo_verl.replay import Group, GroupLeaf, StoredRow, Use
from arpo_verl.replay.store.group import task_digest
from arpo_verl.replay.store.row import renumbered
from arpo_verl.rollout.leaf_signals import TURN_REWARDS, turn_rewards_of

COLUMNS = ["prompts", "response_mask", "rm_scores", "segment_ids", "data_source", "reward_model", "extra_fields"]
MEDIA = "multi_modal_inputs"
"""Column with what a model for images or sound gets beside the tokens; empty for text."""
PAST_COLUMNS = ["responses", "rollout_log_probs", "old_log_probs", "num_turns"]
"""What is read of a leaf only when it is kept."""


@dataclass(frozen=True)
class GrownLeaf:
    """What a step's own leaf is before anything is put in its place."""

    task: str
    prompt_ids: torch.Tensor
    mask: torch.Tensor
    scores: torch.Tensor
    segment_ids: torch.Tensor | None
    extra_fields: Mapping[str, Any]
    in_group: GroupLeaf

    def stored(self, columns: Mapping[str, Any], step: int) -> StoredRow:
        """Return it as it is kept.

        Args:
            columns: of `PAST_COLUMNS`, those that there are.
            step: the step that has sampled it.
        """

        def numbers(name: str) -> Any:
            return columns[name].float().numpy() if name in columns else None

        segments = self.segment_ids
        if segments is None:
            segments = torch.cat([self.mask[:1] * 0, (self.mask[1:] != self.mask[:-1]).long()]).cumsum(0)
        # Nothing reads those of a leaf without a record.
        by_turn, _ = turn_rewards_of(self.extra_fields) if "arpo" in self.extra_fields else (None, None)
        return StoredRow(
            task=self.task,
            step=step,
            reward=self.in_group.reward,
            prompt_ids=self.prompt_ids.int().numpy(),
            response_ids=columns["responses"].int().numpy(),
            mask=self.mask.bool().numpy(),
            segments=renumbered(segments.int().numpy()),
            scores=self.scores.float().numpy(),
            rollout_log_probs=numbers("rollout_log_probs"),
            old_log_probs=numbers("old_log_probs"),
            turn_rewards=None if by_turn is None else tuple(math.nan if one is None else float(one) for one in by_turn),
            turns=int(columns.get("num_turns", 2)),
        )


def read_groups(batch: KVBatchMeta, has_media: bool) -> tuple[list[Group], dict[str, GrownLeaf]]:
    """Return a batch's groups, and its leaves by key.

    Left out are padding rows, prompts with a session of several rows, whose advantage is that of the last one (verl's
    `compute_advantage_for_multi_trajectories`), and prompts with images or sound, which their tokens do not tell.

    Args:
        batch: rows of the queue.
        has_media: whether the model takes images or sound.
    """
    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    data = read_columns(keys, batch.partition_id, [*COLUMNS, *([MEDIA] if has_media else [])])
    rows = [{name: column[at] for name, column in data.items()} for at in range(len(keys))]
    counts = Counter(map(session_of, keys))
    left_out = {
        prompt_of(key) for key, row in zip(keys, rows, strict=True) if counts[session_of(key)] > 1 or row.get(MEDIA)
    }
    parents = _parents(keys, rows)
    of_prompt: dict[str, list[str]] = defaultdict(list)
    leaves: dict[str, GrownLeaf] = {}
    for key, row in zip(keys, rows, strict=True):
        if prompt_of(key) not in left_out:
            leaves[key] = _grown(key, row, (prompt_of(key), int(session_of(key).rsplit("_", 1)[1])) in parents)
            of_prompt[prompt_of(key)].append(key)
    return [_group([leaves[key] for key in own]) for own in of_prompt.values()], leaves


def _group(leaves: Sequence[GrownLeaf]) -> Group:
    prompt = task_digest(leaves[0].prompt_ids.tolist())
    return Group(leaves[0].task, prompt, tuple(leaf.in_group for leaf in leaves))


def _parents(keys: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> set[tuple[str, int]]:
    """Return prompt and number of the leaves from which others have forked."""
    records = [row["extra_fields"].get("arpo") or {} for row in rows]
    pairs = zip(keys, records, strict=True)
    return {(prompt_of(key), record["parent"]) for key, record in pairs if record.get("parent") is not None}


def _grown(key: str, row: Mapping[str, Any], is_parent: bool) -> GrownLeaf:
    mask, scores, segment_ids = row["response_mask"], row["rm_scores"], row.get("segment_ids")
    reward = float(scores.sum())
    answer = (row.get("reward_model") or {}).get("ground_truth")
    leaf = GroupLeaf(
        key=key,
        number=int(session_of(key).rsplit("_", 1)[1]),
        reward=reward,
        # An excluded leaf has an empty mask already.
        is_counted=bool(mask.any()) and math.isfinite(reward),
        segments=() if segment_ids is None else tuple(dict.fromkeys(segment_ids.tolist())),
        is_parent=is_parent,
    )
    task = task_digest(row["prompts"].tolist(), row.get("data_source"), answer)
    return GrownLeaf(task, row["prompts"], mask, scores, segment_ids, row["extra_fields"], leaf)


def put_replayed(batch: KVBatchMeta, uses: Sequence[Use], leaves: Mapping[str, GrownLeaf], step: int) -> KVBatchMeta:
    """Put rows into the queue, and return the batch with them.

    Args:
        batch: rows of the queue.
        uses: the rows; no two in the place of one leaf.
        leaves: of the batch, by key.
        step: its number, for the keys of rows that take no leaf's place.
    """
    tags: dict[str, Tags] = {key: tag or {} for key, tag in zip(batch.keys, batch.tags, strict=True)}
    template = next(key for key, tag in tags.items() if not tag.get("is_padding", False))
    for rows, said in (_in_place(batch, uses, leaves), _besides(batch, template, uses, step)):
        if not rows:
            continue
        for key, use in said.items():
            tags[key] = tags.get(key, tags[template]) | _tags(use)
        columns: dict[str, Column] = {name: [row[name] for row in rows] for name in rows[0]}
        put_columns(list(said), batch.partition_id, columns, [tags[key] for key in said])
    return KVBatchMeta(
        keys=list(tags),
        tags=list(tags.values()),
        partition_id=batch.partition_id,
        fields=batch.fields,
        extra_info=batch.extra_info,
    )


def _in_place(
    batch: KVBatchMeta, uses: Sequence[Use], leaves: Mapping[str, GrownLeaf]
) -> tuple[list[dict[str, Any]], dict[str, Use]]:
    """Return the columns of rows that take a leaf's place, and their uses by key, in the same order."""
    said = {use.replaces.key: use for use in uses if use.replaces is not None}
    if not said:
        return [], said
    here = read_columns(list(said), batch.partition_id, ["position_ids", "rollout_log_probs"])
    first = _first_free_segments(leaves)
    rows = []
    for at, (key, use) in enumerate(said.items()):
        row = _columns(use.row, here["position_ids"][at], "rollout_log_probs" in here)
        brought = _brought_along(use.row) | {GROWN_REWARD: leaves[key].in_group.reward}
        row["extra_fields"] = {**leaves[key].extra_fields, REPLAYED: brought}
        if leaves[key].segment_ids is not None:
            row["segment_ids"] = torch.from_numpy(use.row.segments).long() + first[prompt_of(key)]
            first[prompt_of(key)] += int(use.row.segments[-1]) + 1
        # verl takes it for a prompt of its own, so that it is in no other leaf's statistics.
        row["uid"] = prompt_of(key) if use.advantage is None else f"{key}/replayed"
        rows.append(row)
    return rows, said


def _besides(
    batch: KVBatchMeta, template: str, uses: Sequence[Use], step: int
) -> tuple[list[dict[str, Any]], dict[str, Use]]:
    """Return the columns of rows that take no leaf's place, and their uses by key, in the same order.

    What they do not bring along, such as the messages of their prompt, is that of another row, and needed by nothing
    after the rollout.
    """
    extra = [use for use in uses if use.replaces is None]
    said = {f"replay-{step}-{number}_0_0": use for number, use in enumerate(extra)}
    if not said:
        return [], said
    whole = {name: one[0] for name, one in read_columns([template], batch.partition_id, None).items()}
    rows = []
    for key, use in said.items():
        row = _columns(use.row, whole["position_ids"], "rollout_log_probs" in whole)
        # Without a record of ours it is in no tree and in no metric of the rollout.
        row["extra_fields"] = {REPLAYED: _brought_along(use.row), "reward_extra_info": {}}
        if "segment_ids" in whole:
            row["segment_ids"] = torch.from_numpy(use.row.segments).long()
        rows.append({**whole, **row, "uid": prompt_of(key), "session_id": 0})
    return rows, said


def _columns(row: StoredRow, position_ids: torch.Tensor, has_rollout_log_probs: bool) -> dict[str, Any]:
    """Return the columns of a row that follow from its tokens.

    Args:
        row: the row.
        position_ids: another row's, for their shape.
        has_rollout_log_probs: whether rows have this column; a row without any has zeros until verl has computed its
            log-probabilities (`settle_log_probs`).
    """
    prompts, responses = (torch.from_numpy(ids).long() for ids in (row.prompt_ids, row.response_ids))
    input_ids = torch.cat([prompts, responses])
    mask = torch.from_numpy(row.mask).long()
    columns: dict[str, Any] = {
        "prompts": prompts,
        "responses": responses,
        "input_ids": input_ids,
        # Of text, in every dimension that a model's position ids may have.
        "position_ids": torch.arange(len(input_ids)).expand(*position_ids.shape[:-1], -1).clone(),
        "response_mask": mask,
        "loss_mask": mask,
        "rm_scores": torch.from_numpy(row.scores),
        "num_turns": row.turns,
    }
    if has_rollout_log_probs:
        known = row.rollout_log_probs
        columns["rollout_log_probs"] = torch.zeros(len(responses)) if known is None else torch.from_numpy(known)
    return columns


def _first_free_segments(leaves: Mapping[str, GrownLeaf]) -> dict[str, int]:
    """Return for each prompt the first segment id that none of its leaves has."""
    first: dict[str, int] = defaultdict(int)
    for key, leaf in leaves.items():
        if leaf.segment_ids is not None:
            first[prompt_of(key)] = max(first[prompt_of(key)], int(leaf.segment_ids.max()) + 1)
    return first


def _brought_along(row: StoredRow) -> dict[str, Any]:
    by_turn = None if row.turn_rewards is None else list(row.turn_rewards)
    return {"step": row.step, "origin": row.origin, TURN_REWARDS: by_turn}


def _tags(use: Use) -> Tags:
    prompt, response = len(use.row.prompt_ids), len(use.row.response_ids)
    return {
        "prompt_len": prompt,
        "response_len": response,
        "seq_len": prompt + response,
        IS_REPLAY: True,
        IS_APART: use.advantage is not None,
        ROW_WEIGHT: use.weight,
    }


def settle_log_probs(partition_id: str, uses: Mapping[str, Use]) -> None:
    """Put the log-probabilities that replayed rows are compared with, after verl has computed all rows' own.

    Args:
        partition_id: of the batch.
        uses: the rows by key.
    """
    data = read_columns(list(uses), partition_id, ["old_log_probs", "rollout_log_probs"])
    old: dict[str, torch.Tensor] = {}
    rollout: dict[str, torch.Tensor] = {}
    for (key, use), computed in zip(uses.items(), data["old_log_probs"], strict=True):
        if use.old_log_prob == "stored":
            assert use.row.old_log_probs is not None, f"the row {key} has no log-probabilities stored with it"
            old[key] = torch.from_numpy(use.row.old_log_probs)
        elif use.old_log_prob == "probability":
            old[key] = torch.zeros_like(computed)
        if "rollout_log_probs" in data and (use.old_log_prob == "probability" or use.row.rollout_log_probs is None):
            # The sampler's probabilities are not known: nothing is to be corrected.
            rollout[key] = old.get(key, computed)
    for name, of_key in (("old_log_probs", old), ("rollout_log_probs", rollout)):
        if of_key:
            put_columns(list(of_key), partition_id, {name: list(of_key.values())})


def put_advantages(partition_id: str, uses: Mapping[str, Use], is_weighted_by_loss: bool) -> None:
    """Put the advantages of replayed rows that are in no group's statistics, and weigh all of them.

    A weight w of a policy loss that is proportional to the advantage, as all of verl's are, is the advantage times w.

    Args:
        partition_id: of the batch.
        uses: the rows by key.
        is_weighted_by_loss: whether the policy loss takes the weights itself.
    """
    weights = {key: 1.0 if is_weighted_by_loss else use.weight for key, use in uses.items()}
    changed = {key: use for key, use in uses.items() if use.advantage is not None or weights[key] != 1.0}
    if not changed:
        return
    data = read_columns(list(changed), partition_id, ["advantages", "response_mask"])
    rows = zip(changed.items(), data["advantages"], data["response_mask"], strict=True)
    advantages = [
        (estimated if use.advantage is None else mask.to(estimated.dtype) * use.advantage) * weights[key]
        for (key, use), estimated, mask in rows
    ]
    put_columns(list(changed), partition_id, {"advantages": advantages})


def mean_advantages(batch: KVBatchMeta, leaves: Mapping[str, GrownLeaf]) -> dict[str, float]:
    """Return by key the mean advantage of the sampled tokens of each leaf that counts."""
    keys = [key for key, leaf in leaves.items() if leaf.in_group.is_counted]
    if not keys:
        return {}
    advantages = read_columns(keys, batch.partition_id, ["advantages"])["advantages"]
    return {key: float(one[leaves[key].mask != 0].mean()) for key, one in zip(keys, advantages, strict=True)}


def read_past(batch: KVBatchMeta, keys: Sequence[str], leaves: Mapping[str, GrownLeaf], step: int) -> list[StoredRow]:
    """Return leaves as they are kept."""
    if not keys:
        return []
    data = read_columns(keys, batch.partition_id, PAST_COLUMNS)
    return [
        leaves[key].stored({name: column[at] for name, column in data.items()}, step) for at, key in enumerate(keys)
    ]
