"""The measuring replica's engine and scoring requests on a real vLLM, against the model's own distribution."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from arpo_verl.integration.serving.server import ENTROPIES, FINISH_REASON
from arpo_verl.tiny_world.model import make_model, make_tokenizer, save

pytestmark = [pytest.mark.slow, pytest.mark.engine]

PROMPT = [260, 300, 301, 320, 262]
CASES = {"as it is": {"temperature": 1.0}, "cold": {"temperature": 0.5}, "nucleus": {"temperature": 1.0, "top_p": 0.3}}


# Longer than a batch of 64 tokens, so that it is computed in chunks, and no multiple of a block of 16.
LONG = [260 + number * 7 % 120 for number in range(150)]
OTHER = [300 + number * 11 % 80 for number in range(40)]
SCORES = {
    "a short context": {"context": PROMPT, "scored": [301, 302, 303], "last": 2},
    "a long context, in chunks": {"context": LONG, "scored": [301, 302, 303], "last": 3},
    "the same request again": {"context": LONG, "scored": [301, 302, 303], "last": 3},
    "another answer after a cached context": {"context": LONG, "scored": [305, 306], "last": 1},
    "an answer over the end of a block": {"context": LONG, "scored": list(range(310, 340)), "last": 28},
    "that answer again, a block of it cached": {"context": LONG, "scored": list(range(310, 340)), "last": 28},
    "a whole context that is cached to its last block": {"context": OTHER[:32], "scored": OTHER[32:], "last": 8},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("model")
    save(make_model(make_tokenizer(), seed=0), make_tokenizer(), path)
    return path


@pytest.fixture(scope="module")
def model(folder):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)


@pytest.fixture(scope="module")
def asked(folder):
    return measure(folder)


def test_the_answers_log_probabilities_are_those_of_the_model(model, asked):
    for (name, request), found in zip(SCORES.items(), asked["scores"], strict=True):
        tokens = request["context"] + request["scored"]
        with torch.no_grad():
            log_probs = model(torch.tensor([tokens])).logits[0].double().log_softmax(-1)
        first = len(tokens) - request["last"]
        exact = [log_probs[at - 1, tokens[at]].item() for at in range(first, len(tokens))]
        assert found["log_probs"] == pytest.approx(exact, abs=1e-3), name
    cached = {name: found["cached"] for name, found in zip(SCORES, asked["scores"], strict=True)}
    assert cached["a long context, in chunks"] == [0]
    # 144 of 150 tokens lie in whole blocks and are not computed again.
    assert cached["another answer after a cached context"] == [144]
    # A block holds a piece of the answer, of which the cache has no log-probabilities: asked again without it.
    assert cached["that answer again, a block of it cached"] == [176, 0]


def test_vllm_measures_the_distribution_that_it_samples_from(model, asked):
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT])).logits[0, -1]
    exact = {"as it is": entropy(logits), "cold": entropy(logits / 0.5), "nucleus": nucleus_entropy(logits, 0.3)}
    assert exact["nucleus"] < exact["cold"] < exact["as it is"]
    for name, output in asked["measured"].items():
        assert len(output["tokens"]) == 5
        assert len(output[ENTROPIES]) == 3
        assert output[FINISH_REASON] == "length"
        # With K = 20 of 390 tokens the rest is estimated from below; a nucleus of fewer than K tokens is exact.
        tolerance = 1e-3 if name == "nucleus" else 0.2 * exact[name]
        assert output[ENTROPIES][0] == pytest.approx(exact[name], abs=tolerance)
        assert output[ENTROPIES][0] <= exact[name] + 1e-3


def measure(model: Path) -> dict:
    """Ask vLLM in a process of its own, which has the CPU platform."""
    script = Path(__file__).parent / "measure_with_vllm.py"
    command = [sys.executable, str(script), str(model), json.dumps(CASES), json.dumps(list(SCORES.values()))]
    environment = dict(os.environ, VERL_PLATFORM="cpu")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def entropy(logits: torch.Tensor) -> float:
    return torch.distributions.Categorical(logits=logits.double()).entropy().item()


def nucleus_entropy(logits: torch.Tensor, top_p: float) -> float:
    """The entropy of the smallest set of likeliest tokens that has at least `top_p` of the probability."""
    probabilities = torch.softmax(logits.double(), dim=-1).sort(descending=True).values
    size = int((probabilities.cumsum(0) < top_p).sum()) + 1
    return torch.distributions.Categorical(probs=probabilities[:size]).entropy().item()
