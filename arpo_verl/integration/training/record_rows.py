"""Reads from the queue what the record of a step is built from."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from arpo_verl.integration.queue import KVBatchMeta, read_columns
from arpo_verl.integration.row_key import prompt_of, session_of
from arpo_verl.record.building import Row
from arpo_verl.rollout.leaf_record import LeafRecord
from arpo_verl.rollout.leaf_signals import SIGNALS

REWARD_TIMES = "arpo_reward_times"
"""Extra field of a leaf: when its reward was asked for and when it was there, in seconds since 1970."""
_COLUMNS = [
    *("prompts", "responses", "response_mask", "rm_scores", "extra_fields", "advantages"),
    *("rollout_log_probs", "old_log_probs", "entropy", "reward_model", "data_source"),
]


def read_rows(batch: KVBatchMeta, grows_trees: bool, replayed_steps: Mapping[str, int]) -> list[Row]:
    """Return the rows of a batch, in order of their keys, without padding.

    Args:
        batch: the step's.
        grows_trees: the leaves of a prompt share segments.
        replayed_steps: the step in which each replayed row was sampled, by key.
    """
    keys = [key for key, tag in zip(batch.keys, batch.tags, strict=True) if not tag.get("is_padding", False)]
    keys = sorted(dict.fromkeys(keys), key=lambda key: (prompt_of(key), _number(session_of(key))))
    if not keys:
        return []
    data = read_columns(keys, batch.partition_id, _COLUMNS)
    rows = []
    for place, key in enumerate(keys):
        columns = {name: column[place] for name, column in data.items()}
        rows.append(_row(key, columns, prompt_of(key) if grows_trees else session_of(key), replayed_steps.get(key)))
    return rows


def _row(key: str, columns: Mapping[str, Any], tree: str, replayed_step: int | None) -> Row:
    extra = columns["extra_fields"]
    record = LeafRecord.from_dict(extra["arpo"]) if "arpo" in extra else None
    response_ids: list[int] = columns["responses"].tolist()
    if record is not None and not any(segment.tokens for segment in record.segments):
        response_ids = []  # a leaf without a token has got one that verl can put its reward on
    log_probs = _numbers(columns.get("old_log_probs"))
    reward_model = columns.get("reward_model")
    return Row(
        key=key,
        prompt=prompt_of(key),
        tree=tree,
        number=_number(session_of(key)),
        prompt_ids=columns["prompts"].tolist(),
        response_ids=response_ids,
        mask=columns["response_mask"].numpy(),
        reward=float(columns["rm_scores"].sum()),
        record=record,
        parts=extra.get("reward_extra_info") or {},
        advantages=_numbers(columns.get("advantages")),
        log_probs=log_probs if log_probs is not None else _numbers(columns.get("rollout_log_probs")),
        entropies=_numbers(columns.get("entropy")),
        truth=reward_model.get("ground_truth") if isinstance(reward_model, Mapping) else None,
        source=str(columns.get("data_source") or ""),
        replayed_step=replayed_step,
        reward_times=extra.get(REWARD_TIMES),
        signals=extra.get(SIGNALS) or {},
    )


def _number(session: str) -> int:
    number = session.rsplit("_", 1)[-1]
    return int(number) if number.isdecimal() else 0


def _numbers(values: torch.Tensor | None) -> np.ndarray | None:
    """Return a column's row; None of one that nobody has computed."""
    return None if values is None else values.float().numpy()
