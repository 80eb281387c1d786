"""Traces of tool use as a dataset of verl's SFT trainer, tool results left out of the loss.

Chosen by verl's own keys, `data.custom_cls.path=pkg://arpo_verl.integration.training.trace_dataset` and
`data.custom_cls.name=TagTraceDataset` or `NativeTraceDataset`; reads what `arpo-verl data traces` writes. verl 0.9.1's
`MultiTurnSFTDataset` (`utils/dataset/multiturn_sft_dataset.py`) masks whole messages and renders each by the chat
template; the paper's tags have the results inside the one message of the assistant, encoded apart
(`arpo_verl.data.trace_tokens`). What can't be trained on ends the run when the data is read.
"""

import json
from typing import Any

import torch
from verl.utils.dataset.multiturn_sft_dataset import MultiTurnSFTDataset

from arpo_verl.data.trace_tokens import encode_tag_trace
from arpo_verl.data.traces import tags_of
from arpo_verl.rollout.tag_syntax import Tags


class NativeTraceDataset(MultiTurnSFTDataset):
    """Traces in a model's own tool-call format: verl's dataset over tool calls and schemas that are JSON text."""

    messages: list[list[dict[str, Any]]]
    tools: list[Any] | None

    def __init__(self, parquet_files: Any, tokenizer: Any, config: Any, **kwargs: Any) -> None:
        """The arguments are verl's; see `create_sft_dataset` (trainer/sft_trainer.py).

        Raises:
            ValueError: a trace is too long, or there are fewer than a batch, or verl's keys ask for what can't be done.
        """
        self._config = config
        super().__init__(parquet_files, tokenizer, config, **kwargs)
        if self.truncation == "error":
            self._check_lengths()

    def _read_files_and_process(self) -> None:
        super()._read_files_and_process()
        if self.pad_mode != "no_padding":
            # verl's `sft_loss` (workers/utils/losses.py) wants a `response_mask` in the other mode; no dataset has one.
            raise ValueError(f"data.pad_mode={self.pad_mode}; expected no_padding: change it")
        batch_size = self._config.get("train_batch_size", 1)
        if len(self.messages) < batch_size:
            raise ValueError(
                f"{self._files()}: {len(self.messages)} rows and data.train_batch_size={batch_size}; expected at least "
                f"one batch, because verl leaves out an incomplete one: lower data.train_batch_size"
            )
        # verl leaves `tools` at None where no row has any.
        self.tools = [json.loads(tools) if isinstance(tools, str) else None for tools in self.tools or []] or None
        self.messages = [[_decoded(message) for message in messages] for messages in self.messages]

    def _build_messages(self, example: dict[str, Any]) -> list[dict[str, Any]]:
        return [_decoded(message) for message in super()._build_messages(example)]

    def _check_lengths(self) -> None:
        """Encode what may be too long now, rather than in the middle of the training.

        A text has at most as many tokens as bytes; half of that leaves room for what the chat template adds.
        """
        for index, messages in enumerate(self.messages):
            if 2 * sum(len(message["content"].encode()) for message in messages) > self.max_length:
                try:
                    self[index]
                except ValueError as error:
                    raise ValueError(
                        f"{self._files()}: row {index + 1} (of all files together): {error}; raise data.max_length, "
                        f"set data.truncation=right, or convert with --tokenizer and --max-tokens"
                    ) from error

    def _files(self) -> str:
        return ", ".join(map(str, self.parquet_files))


class TagTraceDataset(NativeTraceDataset):
    """Traces in tags: each turn and each result encoded as the rollout does.

    How calls and results are written is what the files say, which `arpo-verl data traces` has written into them;
    `+data.result_template=...` puts the results into another `arpo.result_template`.
    """

    def __init__(self, parquet_files: Any, tokenizer: Any, config: Any, **kwargs: Any) -> None:
        """The arguments are verl's.

        Raises:
            ValueError: see `NativeTraceDataset`; also where the files' traces are not written alike.
        """
        self._tags = Tags(())
        super().__init__(parquet_files, tokenizer, config, **kwargs)

    def _read_files_and_process(self) -> None:
        super()._read_files_and_process()
        # Before the lengths are checked, which needs them.
        found = {file: tags_of(file) or Tags(()) for file in self.parquet_files}
        ways = {(tags.opening, tags.closing, tags.result) for tags in found.values()}
        if len(ways) > 1:
            raise ValueError(
                f"{self._files()}: their traces are written in different tags, {sorted(ways)}; expected the same in "
                f"all: convert them with the same --tag-open, --tag-close and --result-template"
            )
        self._tags = Tags(
            sorted({tool for tags in found.values() for tool in tags.tools}),
            *next(iter(ways))[:2],
            self._config.get("result_template", next(iter(ways))[2]),
        )

    def __getitem__(self, item: int) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `position_ids` and `loss_mask`, each of shape (tokens,)."""
        messages = self.messages[item]
        ids, mask = encode_tag_trace(messages, self.tokenizer, self._tags, dict(self.apply_chat_template_kwargs))
        if len(ids) > self.max_length:
            if self.truncation == "error":
                raise ValueError(f"{len(ids)} tokens; expected at most data.max_length={self.max_length}")
            kept = slice(self.max_length) if self.truncation == "right" else slice(-self.max_length, None)
            ids, mask = ids[kept], mask[kept]
        return {
            "input_ids": torch.tensor(ids),
            "position_ids": torch.arange(len(ids)),
            "loss_mask": torch.tensor(mask),
        }


def _decoded(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as chat templates take it: with tool calls as objects, or without the key."""
    plain = {"role": message["role"], "content": message["content"]}
    calls = message.get("tool_calls")
    return plain | ({"tool_calls": json.loads(calls) if isinstance(calls, str) else calls} if calls else {})
