"""verl's client as the scheduler's engine: what is asked, what is read, and what survives a resumed request."""

import pytest
from omegaconf import OmegaConf
from verl.workers.rollout.llm_server import FullyAsyncLLMServerClient, LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from arpo_verl.integration.serving.engine import ServerEngine, recording
from arpo_verl.integration.serving.scoring import ScoringClient
from arpo_verl.integration.serving.server import Stops
from arpo_verl.integration.serving.servers.vllm import Vllm
from arpo_verl.rollout.protocols import EntropyMeasure, GenerationRequest

STOPS = Stops(["</python>"], [])


def client(kind: type[LLMServerClient]) -> LLMServerClient:
    return recording(kind(OmegaConf.create({"actor_rollout_ref": {"rollout": {"response_length": 100}}})))


def script(monkeypatch, *outputs: TokenOutput) -> list[dict]:
    """Let the base client answer from a script; return what it is asked."""
    asked, answers = [], iter(outputs)

    async def generate(self, request_id, *, prompt_ids, sampling_params, **kwargs) -> TokenOutput:
        asked.append({"prompt_ids": list(prompt_ids), **sampling_params})
        return next(answers)

    monkeypatch.setattr(LLMServerClient, "generate", generate)
    return asked


def output(*token_ids: int, version: int = 1, stop_reason: str = "completed", **extra) -> TokenOutput:
    fields = {"global_steps": version, "min_global_steps": version, "max_global_steps": version, **extra}
    logprobs = [-0.5] * len(token_ids)
    return TokenOutput(token_ids=list(token_ids), log_probs=logprobs, stop_reason=stop_reason, extra_fields=fields)


async def test_what_the_server_measures_is_read(monkeypatch):
    measured = {"arpo_entropies": [0.1, 0.2], "arpo_finish_reason": "length", "num_cached_tokens": 3}
    asked = script(monkeypatch, output(7, 8, **measured))
    engine = ServerEngine(client(LLMServerClient), Vllm(), {"temperature": 1.0}, STOPS)
    generation = await engine.generate(GenerationRequest([1, 2, 3], 9, "tree", 2, EntropyMeasure(20), seed=5))
    assert (generation.token_ids, generation.entropies) == ([7, 8], [0.1, 0.2])
    assert (generation.is_at_limit, generation.is_interrupted, generation.cached_tokens) == (True, False, 3)
    assert generation.weight_versions == (1, 1)
    assert asked[0]["extra_args"] == {"arpo_entropy": {"top_k": 20, "is_truncated": False, "tokens": 2}}
    assert (asked[0]["max_tokens"], asked[0]["seed"], asked[0]["stop"]) == (9, 5, ["</python>"])


async def test_the_measure_that_the_rule_wants_is_asked_for(monkeypatch):
    asked = script(monkeypatch, output(7))
    engine = ServerEngine(client(LLMServerClient), Vllm(), {}, STOPS)
    await engine.generate(GenerationRequest([1], 9, "tree", 2, EntropyMeasure(10, is_truncated=True)))
    assert asked[0]["extra_args"]["arpo_entropy"] == {"top_k": 10, "is_truncated": True, "tokens": 2}


async def test_nothing_of_ours_is_asked_of_a_stock_server(monkeypatch):
    asked = script(monkeypatch, output(7))
    engine = ServerEngine(client(LLMServerClient), Vllm(), {}, STOPS)
    generation = await engine.generate(GenerationRequest([1], 9, "tree"))
    assert "extra_args" not in asked[0]
    assert "seed" not in asked[0]
    assert generation.entropies is None


async def test_a_request_that_is_aborted_and_resumed_keeps_its_entropies_and_marks_both_weights(monkeypatch):
    first = output(7, 8, stop_reason="aborted", arpo_entropies=[0.1, 0.2], arpo_finish_reason="abort")
    second = output(9, 10, version=2, arpo_entropies=[0.3, 0.4], arpo_finish_reason="stop")
    asked = script(monkeypatch, first, second)
    engine = ServerEngine(client(FullyAsyncLLMServerClient), Vllm(), {}, STOPS)
    generation = await engine.generate(GenerationRequest([1], 9, "tree", 3, EntropyMeasure(20)))
    assert generation.token_ids == [7, 8, 9, 10]
    assert generation.entropies == [0.1, 0.2, 0.3]
    assert generation.weight_versions == (1, 2)
    assert not generation.is_at_limit
    assert not generation.is_interrupted
    assert (asked[1]["prompt_ids"], asked[1]["max_tokens"]) == ([1, 7, 8], 7)


async def test_each_attempt_at_a_request_has_a_seed_of_its_own_and_the_same_in_every_run(monkeypatch):
    """The rest of a turn must not be drawn by the random numbers of its beginning."""
    seeds = []
    for _ in range(2):
        aborted = [output(token, stop_reason="aborted", version=token) for token in (7, 8)]
        asked = script(monkeypatch, *aborted, output(9, version=9))
        engine = ServerEngine(client(FullyAsyncLLMServerClient), Vllm(), {}, STOPS)
        await engine.generate(GenerationRequest([1], 9, "tree", seed=5))
        seeds.append([request["seed"] for request in asked])
    assert seeds[0] == seeds[1]
    assert seeds[0][0] == 5
    assert len(set(seeds[0])) == 3


async def test_a_server_without_log_probabilities_is_an_error_that_says_so(monkeypatch):
    script(monkeypatch, TokenOutput(token_ids=[7, 8], log_probs=None))
    engine = ServerEngine(client(LLMServerClient), Vllm(), {}, STOPS)
    with pytest.raises(RuntimeError, match="returned 2 tokens and 0 log-probabilities"):
        await engine.generate(GenerationRequest([1], 9, "tree"))


@pytest.mark.parametrize("kind", [LLMServerClient, FullyAsyncLLMServerClient])
async def test_tokens_are_scored_through_verls_clients_also_where_the_rollout_runs_ahead(monkeypatch, kind):
    scores = {"prompt_logprobs": [[-1.0], [-2.0], [-3.0], [0.0]], "prompt_ids": [[2], [3], [4], [0]]}
    answered = output(9, num_cached_tokens=1, **scores)
    # An update of the weights aborts the first attempt; the client of the asynchronous modes makes another one.
    aborted = [output(stop_reason="aborted")] if kind is FullyAsyncLLMServerClient else []
    asked = script(monkeypatch, *aborted, answered)
    scoring = ScoringClient(client(kind), Vllm(), "prompt")
    assert await scoring.log_probs([1, 2], [3, 4], 2, "root") == [-2.0, -3.0]
    assert [(one["prompt_ids"], one["max_tokens"], one["prompt_logprobs"]) for one in asked] == [
        ([1, 2, 3, 4], 1, 0)
    ] * len(asked)
    assert len(asked) == 1 + len(aborted)
