"""The tiny world's tokenizer and model: Hugging Face classes, saved in Hugging Face format, small enough to train in
seconds."""

from pathlib import Path

import torch
from tokenizers import AddedToken, Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from arpo_verl.tiny_world.world import SYLLABLES

PAD, END = "<|endoftext|>", "<|im_end|>"
ROLES = ("<|system|>", "<|user|>", "<|assistant|>", "<|tool|>")
TAGS = tuple(f"<{slash}{tag}>" for tag in ("think", "search", "python", "result", "answer") for slash in ("", "/"))
CHAT_TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Return a byte-level BPE tokenizer in which every syllable and every tag is one token.

    Byte-level, because transformers 5 loads every qwen2 checkpoint with `Qwen2Tokenizer`, which replaces the
    pre-tokenizer by a byte-level one: any other kind would lose its white space silently. The tags are added tokens but
    not special ones, so that decoding keeps them.
    """
    syllables = [spelling for syllable in SYLLABLES for spelling in (syllable, syllable.capitalize())]
    vocabulary = [*sorted(pre_tokenizers.ByteLevel.alphabet()), *syllables]
    merges = [(syllable[0], syllable[1]) for syllable in syllables]
    tokenizer = Tokenizer(BPE(vocab={token: index for index, token in enumerate(vocabulary)}, merges=merges))
    tokenizer.normalizer = normalizers.NFC()  # as Qwen2Tokenizer has it
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in (PAD, END, *ROLES)])
    tokenizer.add_tokens([AddedToken(tag, special=False, normalized=False) for tag in TAGS])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        chat_template=CHAT_TEMPLATE,
        clean_up_tokenization_spaces=False,
    )


def make_model(tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen2ForCausalLM:
    """Return a fresh model of about 0.3 M parameters. Heads of 32: vLLM's CPU attention knows few head sizes."""
    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=96,
        intermediate_size=256,
        num_hidden_layers=3,
        num_attention_heads=3,
        num_key_value_heads=3,
        max_position_embeddings=512,
        # At the usual 0.02 a model of this size takes several times as long to discover copying.
        initializer_range=0.12,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return Qwen2ForCausalLM(config)


def save(model: Qwen2ForCausalLM, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    """Write model and tokenizer as `transformers` and vLLM load them."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
