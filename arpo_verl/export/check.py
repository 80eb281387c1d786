"""Compares an exported model, as transformers loads it, with the checkpoint that it came from.

The other side of the comparison owes nothing to the merger: every weight is put together from the shards by its global
shape, and for LoRA the forward pass is PEFT's, unmerged. Compared are every weight, to its type's rounding, and the
log-probabilities of two fixed sequences in float32.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from peft import LoraConfig, PeftModel, get_peft_model
from torch.distributed.tensor import DTensor, Shard
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from arpo_verl.export.checkpoint_files import Checkpoint
from arpo_verl.export.lora_weights import folded, lora_modules, without_lora
from arpo_verl.export.merging import ExportOptions, load_shard, with_base

SEQUENCES, TOKENS = 2, 32
LOGPROB_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.5}
"""Greatest difference of a log-probability, by the type of the weights. The weights themselves are compared more
closely; this one is for what becomes of them: a configuration that is not the trained one's, a layer left out."""
PROBE = "<search>What is 12*34?</search> <result>\n408\n</result> Zürich, \\boxed{408}"


def compare(checkpoint: Checkpoint, folder: Path, options: ExportOptions, auto_class: Any) -> Iterator[str]:
    """Yield what was compared and how far it was apart.

    Args:
        checkpoint: what was exported.
        folder: the exported model or adapter.
        options: those of the export.
        auto_class: of transformers, for the model.

    Raises:
        RuntimeError: it was too far apart.
        ValueError, OSError: a model can't be built.
    """
    _compare_tokenizers(checkpoint, folder, options)
    weights = with_base(assemble(checkpoint), options)
    build = _Builder(checkpoint, options, auto_class)
    vocabulary = build.config.get_text_config().vocab_size
    ids = torch.randint(vocabulary, (SEQUENCES, TOKENS), generator=torch.Generator().manual_seed(0))
    expected = log_probabilities(build.trained(weights), ids)
    if options.is_adapter:
        model: torch.nn.Module = PeftModel.from_pretrained(build.filled(without_lora(weights)), str(folder))
        written, wanted = (_of_lora(names) for names in (model.state_dict(), weights))
        dtype = compare_weights(written, wanted, wanted.__getitem__)
    else:
        model = build.reloaded(folder)
        wanted = without_lora(weights)
        modules = {f"{module}.weight": module for module in lora_modules(weights)}

        def trained(name: str) -> torch.Tensor:
            if name not in modules:
                return wanted[name]
            return folded(weights, modules[name], checkpoint.lora_alpha(), torch.float64)

        dtype = compare_weights(model.state_dict(), wanted, trained)
    yield f"compared {len(wanted)} weights with those of the shards: equal to the rounding of {_name(dtype)}"
    apart = (log_probabilities(model, ids) - expected).abs().max().item()
    allowed = LOGPROB_TOLERANCE[dtype]
    if not apart <= allowed:
        raise RuntimeError(
            f"log-probabilities of {SEQUENCES}x{TOKENS} tokens differ by up to {apart:.3g} from those of "
            f"the checkpoint's weights; expected at most {allowed}: the export is another model, nothing was written"
        )
    yield f"compared log-probabilities of {SEQUENCES}x{TOKENS} tokens: {apart:.2g} apart at most, of {allowed} allowed"


def assemble(checkpoint: Checkpoint) -> dict[str, torch.Tensor]:
    """Return all weights, put together from the shards by the global shapes that they name.

    Raises:
        RuntimeError: the shards do not cover a weight.
    """
    weights: dict[str, torch.Tensor] = {}
    covered: dict[str, int] = {}
    for rank, path in enumerate(checkpoint.shards):
        for name, part in load_shard(path).items():
            if not isinstance(part, DTensor):
                weights.setdefault(name, part)
                continue
            whole = weights.setdefault(name, torch.empty(part.shape, dtype=part.dtype))
            # Of a mesh with replicas the last dimension is the sharded one; its first row has every piece.
            placement, ranks = part.placements[-1], part.device_mesh.mesh.shape[-1]
            if rank >= (ranks if isinstance(placement, Shard) else 1):
                continue
            local = part.to_local()
            covered[name] = covered.get(name, 0) + local.numel()
            if isinstance(placement, Shard):
                # torch shards as `Tensor.chunk` cuts: pieces of one size, the last ones smaller or empty.
                length = part.shape[placement.dim]
                begin = min(-(-length // ranks) * rank, length)
                whole.narrow(placement.dim, begin, local.shape[placement.dim]).copy_(local)
            else:
                whole.copy_(local)
    for name, count in covered.items():
        if count != weights[name].numel():
            raise RuntimeError(f"the shards have {count} numbers of {name}; expected {weights[name].numel()}")
    return weights


def compare_weights(
    written: Mapping[str, torch.Tensor], names: Mapping[str, Any], trained: Callable[[str], torch.Tensor]
) -> torch.dtype:
    """Compare weight by weight and return the type that most of them are written in.

    Args:
        written: of the reloaded model.
        names: the weights that are expected.
        trained: returns one of them as it was trained; of float64 if it had to be computed.

    Raises:
        RuntimeError: a weight is missing, too many, or another one.
    """
    strange = sorted(set(names) ^ set(written))
    if strange:
        raise RuntimeError(f"{len(strange)} weights are in one model alone, {strange[0]} for one; nothing was written")
    types: list[torch.dtype] = []
    for name in names:
        actual, expected = written[name], trained(name)
        types.append(actual.dtype)
        if expected.dtype != torch.float64:
            is_equal = torch.equal(actual, expected.to(actual.dtype))
        else:
            rounding = torch.finfo(actual.dtype).eps * expected.abs() + 1e-6 * expected.abs().max()
            is_equal = bool(((actual.double() - expected).abs() <= rounding).all())
        if not is_equal:
            raise RuntimeError(f"{name} is another one than in the checkpoint; nothing was written")
    return max(set(types), key=types.count)


def log_probabilities(model: torch.nn.Module, ids: torch.Tensor) -> torch.Tensor:
    """Return the log-probabilities of shape (sequences, tokens, vocabulary), computed in float32."""
    with torch.no_grad():
        logits = model.float().eval()(input_ids=ids).logits
    return torch.log_softmax(logits, dim=-1)


class _Builder:
    """Builds models of the checkpoint's configuration. Attention is the plain one, which runs everywhere."""

    def __init__(self, checkpoint: Checkpoint, options: ExportOptions, auto_class: Any) -> None:
        self._checkpoint, self._options, self._auto_class = checkpoint, options, auto_class
        self.config = AutoConfig.from_pretrained(
            checkpoint.huggingface, trust_remote_code=options.trust_remote_code, attn_implementation="eager"
        )

    def trained(self, weights: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """Return the model as it was trained: with the LoRA, if there is one, beside the base."""
        modules = lora_modules(weights)
        if not modules:
            return self.filled(weights)
        rank = next(weight.shape[0] for name, weight in weights.items() if "lora_A" in name)
        lora = LoraConfig(r=rank, lora_alpha=self._checkpoint.lora_alpha(), target_modules=modules)
        with init_empty_weights():
            model = get_peft_model(self._empty(), lora)
        return _fill(model, weights)

    def filled(self, weights: Mapping[str, torch.Tensor]) -> torch.nn.Module:
        """Return the model without LoRA with these weights."""
        return _fill(self._empty(), weights)

    def reloaded(self, folder: Path) -> torch.nn.Module:
        """Return the exported model, as a user would load it.

        Raises:
            RuntimeError: weights are missing, too many or of another shape.
        """
        model, problems = self._auto_class.from_pretrained(
            str(folder),
            dtype="auto",
            trust_remote_code=self._options.trust_remote_code,
            attn_implementation="eager",
            output_loading_info=True,
        )
        found = {kind: sorted(map(str, names)) for kind, names in problems.items() if names}
        if found:
            raise RuntimeError(f"transformers does not load the exported model as it is: {found}; nothing was written")
        loaded: torch.nn.Module = model
        return loaded

    def _empty(self) -> PreTrainedModel:
        with init_empty_weights():
            model: PreTrainedModel = self._auto_class.from_config(
                self.config, trust_remote_code=self._options.trust_remote_code
            )
        return model


def _fill(model: Any, weights: Mapping[str, torch.Tensor]) -> torch.nn.Module:
    problems = model.load_state_dict(weights, strict=False, assign=True)
    model.tie_weights()
    empty = [name for name, weight in model.named_parameters() if weight.is_meta]
    if empty or problems.unexpected_keys:
        raise RuntimeError(
            f"the shards do not fill the model of config.json: {empty or problems.unexpected_keys}; expected one "
            f"weight for each: is huggingface/config.json that of the trained model?"
        )
    filled: torch.nn.Module = model
    return filled


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _of_lora(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in weights.items() if "lora_" in name}


def _compare_tokenizers(checkpoint: Checkpoint, folder: Path, options: ExportOptions) -> None:
    theirs, ours = (
        AutoTokenizer.from_pretrained(path, trust_remote_code=options.trust_remote_code)
        for path in (checkpoint.huggingface, folder)
    )
    if (theirs.encode(PROBE), theirs.chat_template) != (ours.encode(PROBE), ours.chat_template):
        raise RuntimeError("the exported tokenizer or its chat template is not the checkpoint's; nothing was written")
