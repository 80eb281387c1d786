"""verl's FSDP engines with each token that rows share computed once. Written against verl 0.9.1, `workers/engine/fsdp`.

The rows of a micro-batch become one row, in which every token has one next token (`arpo_verl.packing.pack`). verl
prepares that row's inputs and reads its log-probabilities, entropies and values as any row's; they are laid back to the
rows, so that the loss gets what it always gets. Where packing does not apply, verl's own code runs.
"""

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from tensordict import NonTensorData, TensorDict
from verl.utils import tensordict_utils as tu
from verl.utils.device import get_device_id, get_device_name, get_vendor
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead
from verl.workers.engine.utils import postprocess_batch_func

from arpo_verl.integration.packing.attention import ChosenAttention, register_attention
from arpo_verl.integration.packing.micro_batches import MicroBatches, any_rank, micro_batches_of, rows_of
from arpo_verl.integration.packing.reasons import reason_of_batch, reason_of_model
from arpo_verl.integration.packing.trial import reason_of_trial
from arpo_verl.packing.pack import Pack
from arpo_verl.packing.runs import Runs

logger = logging.getLogger(__name__)

PACK_TREES = "arpo_pack_trees"
"""Key of an engine's data with the value of `arpo.pack_trees`; without it rows are computed."""
LEAST_FACTOR = {"cpu": 1.3}
"""By device: row tokens for each computed token from which on `auto` packs. Below it, gathering costs what is saved
(measured on CPU, `tests/benchmarks/packed_update.py`)."""
LEAST_FACTOR_ELSEWHERE = 1.1
"""Not measured."""

LossFunction = Callable[..., Any]


class PackingEngine(FSDPEngineWithLMHead):
    """verl's engine of a language model; among the bases of a class it also goes before its engine of a value model."""

    _pack: Pack | None = None
    """Of the micro-batch that is being computed."""
    _packed_batch: TensorDict
    _is_tried = False
    _reason_of_trial: str | None = None
    _told: frozenset[str] = frozenset()

    def forward_backward_batch(self, data: TensorDict, loss_function: LossFunction, forward_only: bool = False) -> Any:
        """As verl's; with `PACK_TREES` in the data the rows are packed, where they can be and it pays.

        Raises:
            ValueError: `on` is asked for, and the rows can't be packed.
        """
        mode = tu.get_non_tensor_data(data, PACK_TREES, "off")
        if mode == "off":
            return super().forward_backward_batch(data, loss_function, forward_only)
        tu.assign_non_tensor(data, sp_size=self.ulysses_sequence_parallel_size)
        with self._attending():
            micro_batches = self._micro_batches(data, mode)
            if micro_batches is None:
                return super().forward_backward_batch(data, loss_function, forward_only)
            output = self._compute(data, micro_batches, loss_function, forward_only)
        output["metrics"].update(_metrics(micro_batches))
        return output

    @cached_property
    def _attention(self) -> ChosenAttention:
        return ChosenAttention(self.module)

    @contextmanager
    def _attending(self) -> Iterator[None]:
        """Leave the model with its own attention, whatever happens."""
        try:
            yield
        finally:
            self._pack = None
            self._attention.use(None)

    def _micro_batches(self, data: TensorDict, mode: str) -> MicroBatches | None:
        """Return how a batch is packed; None: it is not. All ranks come to the same answer."""
        group = self.get_data_parallel_group()
        is_training = self.mode == "train"
        reason = reason_of_batch(data) or reason_of_model(self.module, self._attention, is_training)
        if reason is None and getattr(self, "pass_packed_cu_seqlens", False):
            reason = "the model is told where rows begin"
        micro_batches = None
        if not any_rank(reason is not None, group):
            micro_batches = micro_batches_of(data, group)
            if mode == "auto" and micro_batches.factor < LEAST_FACTOR.get(get_device_name(), LEAST_FACTOR_ELSEWHERE):
                return None
            if not self._is_tried:
                self._is_tried, self._reason_of_trial = True, reason_of_trial(self, data)
            reason = self._reason_of_trial
            if not any_rank(reason is not None, group):
                return micro_batches
        reason = reason or "another rank can't, and says why"
        if mode == "on":
            raise ValueError(
                f"arpo.pack_trees=on, and trees can't be packed: {reason}; expected auto or off: change it"
            )
        if reason not in self._told:
            self._told |= {reason}
            logger.warning("trees are not packed: %s", reason)
        return None

    def _compute(
        self, data: TensorDict, micro_batches: MicroBatches, loss_function: LossFunction, forward_only: bool
    ) -> Any:
        """As verl's method of the same purpose, `FSDPEngine.forward_backward_batch`, with these micro-batches."""
        tokens = data["loss_mask"].sum().to(get_device_id())
        torch.distributed.all_reduce(tokens, group=self.get_data_parallel_group())
        tu.assign_non_tensor(data, batch_num_tokens=tokens.item(), dp_size=self.get_data_parallel_size())
        keeps_outputs = forward_only or tu.get_non_tensor_data(data, "return_model_output", False)
        outputs, last = [], len(micro_batches.sets) - 1
        for number, members in enumerate(micro_batches.sets):
            is_last = number == last
            syncing = nullcontext() if forward_only else self._gradient_sync_context(is_last_micro_batch=is_last)
            with torch.set_grad_enabled(not forward_only), syncing:
                micro_batch = tu.index_select_tensor_dict(data, list(members))
                loss, output = self.packed_step(micro_batch, loss_function, forward_only)
                if not forward_only:
                    (loss if self.scaler is None else self.scaler.scale(loss)).backward()
            if not keeps_outputs:
                output.pop("model_output", None)
            outputs.append(output)
        indices = list(micro_batches.sets) if micro_batches.is_cut_by_tokens else None
        return postprocess_batch_func(output_lst=outputs, indices=indices, data=data)

    def packed_step(self, micro_batch: TensorDict, loss_function: LossFunction | None, forward_only: bool) -> Any:
        """Compute a micro-batch packed. Its attention stays until the next one: a backward pass may need it again."""
        self._pack = Pack.of(rows_of(micro_batch))
        return self.forward_step(micro_batch, loss_function=loss_function, forward_only=forward_only)

    def row_step(self, micro_batch: TensorDict) -> Any:
        """Compute a micro-batch row by row, without a loss."""
        self._pack = None
        self._attention.use(None)
        return self.forward_step(micro_batch, loss_function=None, forward_only=True)

    def prepare_model_inputs(self, micro_batch: TensorDict) -> Any:
        pack = self._pack
        if pack is None:
            return super().prepare_model_inputs(micro_batch)
        self._packed_batch = _packed(micro_batch, pack)
        inputs, output_args = super().prepare_model_inputs(self._packed_batch)
        inputs["attention_mask"] = None
        device = micro_batch["input_ids"].device
        self._attention.use(Runs.of(pack, device, padding=output_args.get("pad_size") or 0))
        return inputs, output_args

    def prepare_model_outputs(
        self, output: Any, output_args: Any, micro_batch: TensorDict, logits_processor_func: Any
    ) -> Any:
        pack = self._pack
        if pack is None:
            return super().prepare_model_outputs(output, output_args, micro_batch, logits_processor_func)
        packed = super().prepare_model_outputs(output, output_args, self._packed_batch, logits_processor_func)
        offsets = micro_batch["input_ids"].offsets()
        places = pack.places.to(offsets.device)
        return {
            name: torch.nested.nested_tensor_from_jagged(values.values()[places], offsets)
            for name, values in packed.items()
        }


def _packed(micro_batch: TensorDict, pack: Pack) -> TensorDict:
    """Return a micro-batch as a batch of one row, with what verl's engine reads besides its tokens."""
    device = micro_batch["input_ids"].device
    source, offsets = pack.source.to(device), torch.tensor([0, len(pack)], device=device)
    columns = {
        name: torch.nested.nested_tensor_from_jagged(micro_batch[name].values()[source], offsets)
        for name in ("input_ids", "position_ids")
    }
    settings = {
        name: tu.get_non_tensor_data(micro_batch, name, None)
        for name in micro_batch.keys()  # noqa: SIM118 - a TensorDict iterates over rows
        if isinstance(micro_batch.get(name), NonTensorData)
    }
    temperature = micro_batch["temperature"]
    if isinstance(temperature, torch.Tensor):
        temperature = float(temperature.flatten()[0])
    return tu.get_tensordict(columns, {**settings, "temperature": temperature})


def _metrics(micro_batches: MicroBatches) -> dict[str, list[float]]:
    """Return what is logged, for verl to take means of over mini-batches and ranks."""
    return {
        "pack/row_tokens": [micro_batches.row_tokens],
        "pack/unique_tokens": [micro_batches.unique_tokens],
        "pack/computed_tokens": [micro_batches.computed_tokens],
        "pack/factor": [micro_batches.factor],
        "pack/micro_batches": [len(micro_batches.sets)],
    }


def pack_in_engines(engines: Any) -> None:
    """Let verl's FSDP engines of this device pack. A second call changes nothing.

    verl looks for an engine of a device and its vendor before one of the device alone, and registers its own without a
    vendor (`workers/engine/base.py`, `EngineRegistry.get_engine_cls`). An engine that somebody else has registered for
    the vendor is left alone.

    Args:
        engines: verl's module `workers.engine`.
    """
    register_attention()
    registry = engines.EngineRegistry
    device = os.environ.get("VERL_ENGINE_DEVICE") or get_device_name()
    vendor = os.environ.get("VERL_ENGINE_VENDOR") or get_vendor()
    for model_type in ("language_model", "value_model"):
        for backend in ("fsdp", "fsdp2"):
            known = registry._engines[model_type][backend]
            if (device, vendor) not in known and device in known:
                stock = known[device]
                packing = type(f"Packing{stock.__name__}", (PackingEngine, stock), {})
                registry.register(model_type=model_type, backend=backend, device=device, vendor=vendor)(packing)
