"""Turns a GGUF file into a Hugging Face model folder, and checks what came out by using it.

transformers reads the weights, dequantized, and most of the tokenizer. What it leaves out is put right from the file's
own metadata (transformers 5.9.0, `integrations/ggml.py`): which tokens are control tokens (never split, left out of
decoded text) and which are the user's (never split, kept, as `<tool_call>`), the end and padding tokens, digits that
are single tokens, and a matrix that is embedding and output layer in one but was quantized twice.
"""

from pathlib import Path
from typing import Any

import torch
from gguf import GGUFReader, TokenType
from model_packages import PackagedModel
from tokenizers import AddedToken, pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

DTYPE = torch.bfloat16
QUESTION, ANSWER = "What is the capital of France?", "Paris"
MOST_TOKENS = 48
TEXTS = ["<search>Zürich 1024</search> <result>\n48\n</result>", "\\boxed{3.14}  北京", "<tool_call>\n{}\n</tool_call>"]
TOOL = {
    "type": "function",
    "function": {"name": "search", "parameters": {"type": "object", "properties": {"query": {"type": "string"}}}},
}


def convert(source: Path, target: Path, model: PackagedModel) -> None:
    """Write a GGUF file as a model folder: config, weights (safetensors, bfloat16), tokenizer with chat template.

    Raises:
        ValueError, OSError: transformers can't read the file.
    """
    metadata = read_metadata(source)
    tokenizer = AutoTokenizer.from_pretrained(source.parent, gguf_file=source.name)
    repair_tokenizer(tokenizer, metadata, model)
    network = AutoModelForCausalLM.from_pretrained(source.parent, gguf_file=source.name, dtype=DTYPE)
    if model.is_tied and not network.config.tie_word_embeddings:
        tie(network)
    network.config.pad_token_id = tokenizer.pad_token_id
    network.generation_config.pad_token_id = tokenizer.pad_token_id
    network.generation_config.eos_token_id = [tokenizer.eos_token_id, tokenizer.pad_token_id]
    network.save_pretrained(target)
    tokenizer.save_pretrained(target)


def read_metadata(source: Path) -> dict[str, Any]:
    """Return the metadata of the tokenizer and the context length, by the last parts of their keys.

    Raises:
        ValueError: it is not a GGUF file, or has no tokenizer.
    """
    fields = GGUFReader(source).fields
    wanted = ["tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.pre"]
    wanted += [key for key in fields if key.endswith(".context_length")]
    if missing := [key for key in wanted if key not in fields]:
        raise ValueError(
            f"{source.name} has no {missing[0]}; expected a GGUF file of a language model with a tokenizer"
        )
    return {key.rpartition(".")[2]: fields[key].contents() for key in wanted}


def repair_tokenizer(tokenizer: Any, metadata: dict[str, Any], model: PackagedModel) -> None:
    """Put right what transformers leaves out of a GGUF file's tokenizer, in place."""
    kinds = {TokenType.CONTROL: True, TokenType.USER_DEFINED: False}
    for text, kind in zip(metadata["tokens"], metadata["token_type"], strict=True):
        if kind in kinds:
            tokenizer.add_tokens([AddedToken(text, special=kinds[kind], normalized=False)], special_tokens=kinds[kind])
    backend = tokenizer.backend_tokenizer
    if metadata["pre"] == "smollm":
        # As the model was trained: "a  12" has both spaces in one token.
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    tokenizer.eos_token, tokenizer.pad_token = model.eos_token, model.pad_token
    tokenizer.model_max_length = metadata["context_length"]
    tokenizer.clean_up_tokenization_spaces = False
    if model.chat_template:
        tokenizer.chat_template = model.chat_template.read_text()


def tie(network: Any) -> None:
    """Make the output layer the embedding too: a quantized file has it in more bits than its embedding."""
    network.get_input_embeddings().weight = network.get_output_embeddings().weight
    network.config.tie_word_embeddings = True
    network.tie_weights()


def check_folder(folder: Path, model: PackagedModel) -> str:
    """Load a model folder as a training would, and return its answer to a simple question.

    Checked are that every weight is there, in its type, number and tying; that the tokenizer gives back what it is
    given; that the chat template renders, with tools too; and that the greedy answer is right and ends by itself.

    Raises:
        RuntimeError: something is not as expected.
    """
    network, problems = AutoModelForCausalLM.from_pretrained(folder, dtype="auto", output_loading_info=True)
    if found := {kind: sorted(map(str, names)) for kind, names in problems.items() if names}:
        raise RuntimeError(f"the converted model does not load as it is: {found}; expected every weight, and no other")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    is_tied = network.get_input_embeddings().weight is network.get_output_embeddings().weight
    _require("parameters", sum(weight.numel() for weight in network.parameters()), model.parameters)
    _require("type of the weights", {weight.dtype for weight in network.parameters()}, {DTYPE})
    _require("tied embeddings", is_tied, model.is_tied)
    _require("end token", tokenizer.convert_ids_to_tokens(network.generation_config.eos_token_id)[0], model.eos_token)
    _require(
        "tokenizer's end and padding", (tokenizer.eos_token, tokenizer.pad_token), (model.eos_token, model.pad_token)
    )
    for text in TEXTS:
        _require("text through the tokenizer", tokenizer.decode(tokenizer.encode(text)), text)
    _check_template(tokenizer)
    return _greedy_answer(network.eval(), tokenizer)


def _check_template(tokenizer: Any) -> None:
    call = {"type": "function", "function": {"name": "search", "arguments": {"query": "Zovi"}}}
    messages = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "48"},
    ]
    text = tokenizer.apply_chat_template(messages, tools=[TOOL], add_generation_prompt=True, tokenize=False)
    for part in ('"name": "search"', '<tool_call>\n{"name": "search", "arguments": {"query": "Zovi"}}\n</tool_call>'):
        _require(f"{part!r} in a rendered conversation", part in text, True)
    _require("a result in a rendered conversation", "<tool_response>\n48\n</tool_response>" in text, True)


def _greedy_answer(network: Any, tokenizer: Any) -> str:
    prompt = tokenizer.apply_chat_template(
        [{"role": "user", "content": QUESTION}], add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    with torch.no_grad():
        ids = network.generate(**prompt, do_sample=False, max_new_tokens=MOST_TOKENS)[0, prompt["input_ids"].shape[1] :]
    answer = str(tokenizer.decode(ids, skip_special_tokens=True)).strip()
    if ANSWER not in answer or ids[-1] != tokenizer.eos_token_id:
        raise RuntimeError(
            f"the converted model answers {QUESTION!r} by {answer!r}; expected {ANSWER} in it and an end within "
            f"{MOST_TOKENS} tokens: the conversion is wrong"
        )
    return answer


def _require(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise RuntimeError(f"{what} of the converted model: {got!r}; expected {expected!r}: the conversion is wrong")
