"""The source of replay that a run has chosen, made of verl's configuration."""

import hashlib
import json
from functools import partial
from typing import Any

from omegaconf import DictConfig, OmegaConf

from arpo_verl.integration.settings import TAG_FORMAT, arpo_config
from arpo_verl.replay import ReplayContext, ReplaySource, build_source
from arpo_verl.replay.store.row import Limits
from arpo_verl.replay.store.source import Trace

FILE = "arpo_replay.npz"
"""The store, in the folder of a step's checkpoint."""


def source_of(config: DictConfig) -> ReplaySource | None:
    """Return the source that `arpo.replay` names, which does not know the tokenizer yet; None where there is none.

    Raises:
        ValueError: it can't be found, or does not take its settings.
    """
    arpo = arpo_config(config)
    if arpo.replay is None:
        if arpo.replay_kwargs:
            raise ValueError(
                f"arpo.replay_kwargs={dict(arpo.replay_kwargs)} without a source to take them; expected arpo.replay "
                f"set: set it"
            )
        return None
    return build_source(arpo.replay, arpo.replay_kwargs, context_of(config))


def context_of(config: DictConfig, tokenizer: Any = None) -> ReplayContext:
    """Return what a source may know of a run.

    Args:
        config: verl's.
        tokenizer: a Hugging Face tokenizer, once it is loaded.
    """
    rollout, actor = config.actor_rollout_ref.rollout, config.actor_rollout_ref.actor
    is_loaded = tokenizer is not None
    return ReplayContext(
        leaves=rollout.n,
        rows_per_update=actor.ppo_mini_batch_size * rollout.n,
        limits=Limits(rollout.prompt_length, rollout.response_length, len(tokenizer) if is_loaded else None),
        seed=arpo_config(config).seed,
        tokenizer=tokenizer_digest(tokenizer) if is_loaded else "",
        encode_traces=partial(encode_traces, config, tokenizer) if is_loaded else None,
    )


def tokenizer_digest(tokenizer: Any) -> str:
    """Return a digest of what token ids mean."""
    vocabulary = json.dumps(sorted(tokenizer.get_vocab().items()))
    return hashlib.sha256(vocabulary.encode("utf-8", "backslashreplace")).hexdigest()[:32]


def encode_traces(config: DictConfig, tokenizer: Any, file: str) -> list[Trace]:
    """Return a file's traces in tokens, as the cold start reads them (`trace_dataset`).

    Args:
        config: verl's; its rollout's call syntax says in which of the two ways the traces are written.
        tokenizer: a Hugging Face tokenizer.
        file: a parquet that `arpo-verl data traces` has written.

    Raises:
        ValueError: the file is none.
    """
    from arpo_verl.integration.training.trace_dataset import NativeTraceDataset, TagTraceDataset

    is_tags = config.actor_rollout_ref.rollout.multi_turn.format == TAG_FORMAT
    settings: dict[str, Any] = {
        "pad_mode": "no_padding",
        "truncation": "right",
        # Longer ones are left out for being too long, not cut to fit.
        "max_length": config.actor_rollout_ref.rollout.prompt_length
        + config.actor_rollout_ref.rollout.response_length
        + 1,
        "train_batch_size": 1,
        "apply_chat_template_kwargs": config.data.get("apply_chat_template_kwargs") or {},
    }
    if is_tags:
        settings["result_template"] = arpo_config(config).result_template
    try:
        kind = TagTraceDataset if is_tags else NativeTraceDataset
        dataset = kind([file], tokenizer, OmegaConf.create(settings))
        rows = [dataset[number] for number in range(len(dataset))]
    except Exception as error:
        # Whatever pandas, verl's dataset or a chat template raises.
        raise ValueError(
            f"arpo.replay_kwargs.file={file!r} can't be read as traces ({type(error).__name__}: {error}); expected a "
            f"parquet that `arpo-verl data traces` has written: convert it again"
        ) from error
    return [(row["input_ids"].tolist(), row["loss_mask"].tolist()) for row in rows]
