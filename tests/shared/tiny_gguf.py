"""A GGUF file of a language model of a few thousand numbers, and packages that hold it as they hold real ones."""

import hashlib
import zipfile
from collections.abc import Sequence
from pathlib import Path

import gguf
import numpy as np
from model_packages import PackagedModel, WheelPart
from transformers.convert_slow_tokenizer import bytes_to_unicode

HIDDEN, HEADS, MIDDLE, CONTEXT = 8, 2, 16, 512
NAMED = ("<|im_end|>", "<|im_start|>", "<|endoftext|>", "<tool_call>", "</tool_call>")
"""The end token is number 0, which a model of zeros always says."""
TOKENS = [*NAMED, *bytes_to_unicode().values(), "er", "12"]
KINDS = [*[gguf.TokenType.CONTROL] * 3, *[gguf.TokenType.USER_DEFINED] * 2, *[gguf.TokenType.NORMAL] * 258]
PARAMETERS = len(TOKENS) * HIDDEN + 2 * HIDDEN + 4 * HIDDEN**2 + 3 * HIDDEN * MIDDLE + HIDDEN


def write_gguf(path: Path, weights: float = 0.0, has_own_output: bool = False) -> dict[str, np.ndarray]:
    """Write a llama of one layer, and return its weights by their names in the file.

    Args:
        path: of the file.
        weights: standard deviation of the weights.
        has_own_output: whether the output layer is stored beside the embedding.
    """
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(1)
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(MIDDLE)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(HIDDEN // HEADS)
    writer.add_vocab_size(len(TOKENS))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(TOKENS)
    writer.add_token_types(KINDS)
    writer.add_token_merges(["e r", "1 2"])
    # As the real file has them: its beginning is what transformers takes for the end.
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(0)
    draw = np.random.default_rng(0)
    shapes = {
        "token_embd.weight": (len(TOKENS), HIDDEN),
        "output_norm.weight": (HIDDEN,),
        **{f"blk.0.{name}.weight": (HIDDEN, HIDDEN) for name in ("attn_q", "attn_k", "attn_v", "attn_output")},
        **{f"blk.0.{name}.weight": (MIDDLE, HIDDEN) for name in ("ffn_gate", "ffn_up")},
        "blk.0.ffn_down.weight": (HIDDEN, MIDDLE),
        **{f"blk.0.{name}.weight": (HIDDEN,) for name in ("attn_norm", "ffn_norm")},
        **({"output.weight": (len(TOKENS), HIDDEN)} if has_own_output else {}),
    }
    stored = {name: (weights * draw.standard_normal(shape)).astype(np.float32) for name, shape in shapes.items()}
    for name, values in stored.items():
        writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored


def package(content: bytes, folder: Path, pieces: int, template: Path) -> PackagedModel:
    """Write wheels that hold a file in pieces, and return the model that they are."""
    length = -(-len(content) // pieces)
    parts = [
        _wheel(f"tiny-part{number}", content[number * length : (number + 1) * length], folder)
        for number in range(pieces)
    ]
    return PackagedModel(
        title="tiny",
        parts=parts,
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
        disk_bytes=1 << 20,
        memory_bytes=1 << 20,
        parameters=PARAMETERS,
        chat_template=template,
    )


def _wheel(name: str, content: bytes, folder: Path) -> WheelPart:
    module = name.replace("-", "_")
    path = folder / f"{module}-1.0-py3-none-any.whl"
    files: Sequence[tuple[str, bytes]] = [
        (f"{module}/__init__.py", b"raise SystemExit('imported')\n"),
        (f"{module}/data.bin", content),
        (f"{module}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n".encode()),
        (f"{module}-1.0.dist-info/WHEEL", b"Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"),
        (f"{module}-1.0.dist-info/RECORD", b""),
    ]
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in files:
            archive.writestr(file, text)
    return WheelPart(f"{name}==1.0", hashlib.sha256(path.read_bytes()).hexdigest(), f"{module}/data.bin")
