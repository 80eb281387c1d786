"""The measuring replica's engine on a real vLLM, against the model's own distribution."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from arpo_verl.integration.settings import ENTROPIES, FINISH_REASON
from arpo_verl.tiny_world.model import make_model, make_tokenizer, save

pytestmark = pytest.mark.slow

PROMPT = [260, 300, 301, 320, 262]
CASES = {"as it is": {"temperature": 1.0}, "cold": {"temperature": 0.5}, "nucleus": {"temperature": 1.0, "top_p": 0.3}}


def test_vllm_measures_the_distribution_that_it_samples_from(tmp_path):
    save(make_model(make_tokenizer(), seed=0), make_tokenizer(), tmp_path)
    model = AutoModelForCausalLM.from_pretrained(tmp_path, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([PROMPT])).logits[0, -1]
    exact = {"as it is": entropy(logits), "cold": entropy(logits / 0.5), "nucleus": nucleus_entropy(logits, 0.3)}
    assert exact["nucleus"] < exact["cold"] < exact["as it is"]
    for name, output in measure(tmp_path).items():
        assert len(output["tokens"]) == 5
        assert len(output[ENTROPIES]) == 3
        assert output[FINISH_REASON] == "length"
        # With K = 20 of 390 tokens the rest is estimated from below; a nucleus of fewer than K tokens is exact.
        tolerance = 1e-3 if name == "nucleus" else 0.2 * exact[name]
        assert output[ENTROPIES][0] == pytest.approx(exact[name], abs=tolerance)
        assert output[ENTROPIES][0] <= exact[name] + 1e-3


def measure(model: Path) -> dict[str, dict]:
    """Ask vLLM in a process of its own, which has the CPU platform."""
    script = Path(__file__).parent / "measure_with_vllm.py"
    command = [sys.executable, str(script), str(model), json.dumps(CASES)]
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
