"""Signals of leaves in the rollout: a function that misbehaves, scoring through verl's client, hinted prompts."""

import asyncio
import time
from types import SimpleNamespace

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from test_agent_loop import PROMPT, Server, arithmetic, loop
from verl.workers.rollout.replica import TokenOutput

from arpo_verl.integration.rollout.agent_loop import TreeAgentLoop, TreeRequest
from arpo_verl.integration.rollout.hinted_growth import HintedGrowth
from arpo_verl.integration.rollout.signals import is_validation
from arpo_verl.integration.rollout.turn_rewards import TurnRewardFunction
from arpo_verl.integration.rollout.worker import ArpoAgentLoopWorker, known_reward
from arpo_verl.integration.serving.scoring import ScoringClient
from arpo_verl.integration.serving.servers.vllm import Vllm
from arpo_verl.rollout.hints import HintSettings
from arpo_verl.rollout.leaf_signals import SIGNALS, LeafSignals
from arpo_verl.rules import build_rule
from arpo_verl.turn_rewards import LeafTurns, Turn

TWO_TURNS = LeafTurns((Turn("A"), Turn("B")), "completed", "48", 3, {})


def hanging(leaf):
    time.sleep(1000)


async def hanging_coroutine(leaf):
    await asyncio.sleep(1000)


async def coroutine(leaf):
    return [1.0, None]


def exiting(leaf):
    raise SystemExit(1)


def surrogate(leaf):
    raise ValueError("\ud83d lone")


@pytest.mark.parametrize(
    ("function", "failure"),
    [
        (hanging, "no answer within arpo.max_reward_seconds=0.2"),
        (hanging_coroutine, "no answer within arpo.max_reward_seconds=0.2"),
        (exiting, "ToolAborted: it raised SystemExit(1)"),
        (surrogate, "ValueError: \ufffd lone"),
        (lambda leaf: leaf.nothing, "AttributeError: "),
        (lambda leaf: [1.0], "ValueError: got 1 rewards; expected a list of 2 numbers"),
        (lambda leaf: [1.0, float("inf")], "ValueError: got inf for turn 2"),
        (lambda leaf: None, "ValueError: got None"),
    ],
    ids=["hangs", "hangs as a coroutine", "exits", "surrogate", "raises", "too few", "infinite", "nothing"],
)
async def test_a_function_that_misbehaves_costs_the_leaf_its_turn_rewards_alone(function, failure):
    values, said = await asyncio.wait_for(TurnRewardFunction(function, 0.2).of_leaf(TWO_TURNS), 5)
    assert values is None and said.startswith(failure)


@pytest.mark.parametrize("function", [coroutine, lambda leaf: coroutine(leaf), lambda leaf: (1, float("nan"))])
async def test_a_function_may_be_a_coroutine_function_or_return_a_coroutine(function):
    assert await TurnRewardFunction(function, 5.0).of_leaf(TWO_TURNS) == ([1.0, None], None)


class ScoringServer(Server):
    """Also scores tokens as verl's vLLM server does, with a prefix cache of a given length."""

    def __init__(self, tokenizer, write, cached: int | None = 0) -> None:
        super().__init__(tokenizer, write)
        self.cached = cached
        self.scored: list[tuple[str, bool]] = []
        """The text of each scoring request, and whether it may read the cache."""

    async def generate(self, request_id, *, prompt_ids, sampling_params, **kwargs) -> TokenOutput:
        if "prompt_logprobs" not in sampling_params:
            return await super().generate(request_id, prompt_ids=prompt_ids, sampling_params=sampling_params, **kwargs)
        reads_cache = not sampling_params["skip_reading_prefix_cache"]
        self.scored.append((self.tokenizer.decode(prompt_ids), reads_cache))
        # The probability of the answer halves with each token of the context modulo 5: any number that depends on it.
        fields = {
            "prompt_logprobs": [[-float(len(prompt_ids) % 5)] for _ in prompt_ids],
            "prompt_ids": [[token] for token in [*prompt_ids[1:], 0]],
            "num_cached_tokens": self.cached if reads_cache else 0,
        }
        return TokenOutput(token_ids=[1], extra_fields=fields)


@pytest.mark.parametrize(("cached", "asked"), [(0, [True]), (6, [True]), (7, [True, False]), (None, [True, False])])
async def test_what_the_cache_holds_of_the_scored_tokens_is_asked_for_again(cached, asked):
    server = ScoringServer(SimpleNamespace(decode=str), None, cached)
    # Eight tokens of context and two to score, of which the last three are wanted: the seventh has to be computed.
    client = ScoringClient(server, Vllm(), "prompt")
    assert await client.log_probs(list(range(8)), [8, 9], 3, "root") == [0.0, 0.0, 0.0]
    assert [reads for _, reads in server.scored] == asked


async def test_a_server_that_brings_no_log_probabilities_is_an_error_that_says_so():
    async def generate(*args, **kwargs):
        return TokenOutput(token_ids=[1], extra_fields={"num_cached_tokens": 0})

    client = ScoringClient(SimpleNamespace(generate=generate), Vllm(), "prompt")
    with pytest.raises(RuntimeError, match="needs a server that honours `prompt_logprobs`"):
        await client.log_probs([1], [2], 1, "root")


GAIN = ["arpo.information_gain=true", "arpo.turn_rewards=tools"]
TREE = ["arpo.base_probability=1.0", "arpo.entropy_weight=0", "arpo.probe_tokens=3"]
SAMPLE = {"raw_prompt": PROMPT, "reward_model": {"ground_truth": ["2", "two"]}, "global_steps": 3}


def scoring_loop(*overrides: str) -> tuple[TreeAgentLoop, ScoringServer]:
    ours, server = loop(TreeAgentLoop, arithmetic, *overrides)
    scoring = ScoringServer(server.tokenizer, arithmetic)
    ours.server_manager = scoring
    return ours, scoring


async def signals_of(ours: TreeAgentLoop, leaves: int) -> list[LeafSignals]:
    found = []

    async def keep(leaf, output) -> None:
        found.append(LeafSignals.of_fields(output.extra_fields))

    await ours.grow_tree({}, TreeRequest(leaves, "s", build_rule(ours._arpo)), keep, SAMPLE)
    return found


async def test_a_tree_scores_the_first_gold_answer_after_the_prompt_and_after_each_distinct_result():
    ours, server = scoring_loop(*GAIN, *TREE)
    found = await signals_of(ours, 4)
    texts = [text for text, _ in server.scored]
    assert len(texts) == len(set(texts)) == sum(one.scoring_requests for one in found)
    assert all(text.endswith(r"<answer>The answer is \boxed{2") for text in texts)
    assert sum("sum 2" not in text for text in texts) == 1
    for one in found:
        assert [gain is None for gain in one.info_gains] == [False] * (len(one.info_gains) - 1) + [True]
        # verl gives a function that returns a text alone 0; `count` gives .5; the answer calls nothing.
        assert one.turn_rewards == [0.0, 0.5, None]
        assert one.scoring_failures == 0


async def test_one_leaf_of_verls_own_worker_has_signals_too():
    ours, server = scoring_loop(*GAIN)
    output = await ours.run({}, **SAMPLE)
    assert LeafSignals.of_fields(output.extra_fields).scoring_requests == len(server.scored) == 3


async def test_validation_asks_for_nothing_and_a_run_without_signals_carries_none():
    ours, server = scoring_loop(*GAIN)
    is_validation.set(True)
    output = await ours.run({}, **SAMPLE)
    is_validation.set(False)
    assert server.scored == [] and SIGNALS not in output.extra_fields
    plain, _ = scoring_loop()
    assert SIGNALS not in (await plain.run({}, **SAMPLE)).extra_fields


async def test_a_row_whose_truth_is_no_answer_has_no_gains_and_loses_no_leaf():
    ours, server = scoring_loop(*GAIN)
    output = await ours.run({}, **SAMPLE | {"reward_model": {"ground_truth": {"tests": 3}}})
    assert LeafSignals.of_fields(output.extra_fields).info_gains == [None, None, None] and server.scored == []


def hinted_answer(context: str) -> str:
    return "right<|im_end|>" if "two three" in context else "wrong<|im_end|>"


async def hinted(rewards: dict[str, float], *overrides: str) -> list[tuple[str, float, str]]:
    """Grow a prompt with hints; return of each published leaf its prompt, its hint and its text."""
    ours, server = loop(TreeAgentLoop, hinted_answer, *overrides)
    published = []

    async def score(row, leaf, output) -> None:
        output.reward_score = rewards[server.tokenizer.decode(output.response_ids).removesuffix("<|im_end|>")]
        leaf.reward = known_reward(output)

    async def publish(row, leaf, output) -> None:
        signals = LeafSignals.of_fields(output.extra_fields)
        text = server.tokenizer.decode(output.response_ids)
        assert server.tokenizer.decode(output.prompt_ids).count(row["raw_prompt"][-1]["content"]) == 1
        published.append((row["raw_prompt"][-1]["content"], signals.hint, text))

    sample = {"raw_prompt": PROMPT, "extra_info": {"solution": "one two three four five six"}}
    settings = HintSettings(template=" ({hint})")
    await HintedGrowth(settings, ours, TreeRequest(3, "s"), {}).run(sample, score, publish)
    return published


async def test_a_prompt_that_always_fails_comes_out_with_all_its_leaves_from_the_hint_that_helped():
    question = PROMPT[-1]["content"]
    found = await hinted({"right": 1.0, "wrong": 0.0})
    assert found == [(f"{question} (one two three four)", 0.5, "right<|im_end|>")] * 3
    assert await hinted({"wrong": 0.5}) == [(question, 0.0, "wrong<|im_end|>")] * 3


async def test_a_hint_that_does_not_fit_into_the_prompt_is_not_given():
    plain, _ = loop(TreeAgentLoop, hinted_answer)
    longest = len((await plain.rendered({"raw_prompt": PROMPT})).token_ids) + len(" (one two three") + 1
    limit = [f"data.max_prompt_length={longest}", f"actor_rollout_ref.rollout.prompt_length={longest}"]
    found = await hinted({"right": 1.0, "wrong": 0.0}, *limit)
    assert found == [(f"{PROMPT[-1]['content']} (one two)", 0.25, "wrong<|im_end|>")] * 3


async def test_a_reward_function_is_told_the_step(monkeypatch):
    seen = []

    async def compute(self, outputs, kwargs):
        seen.append(kwargs["extra_info"])

    stock = ArpoAgentLoopWorker.__bases__[0]
    monkeypatch.setattr(stock, "_compute_score", compute)
    worker = object.__new__(ArpoAgentLoopWorker)
    worker._arpo = SimpleNamespace(max_reward_seconds=5.0)
    row = {"extra_info": {"index": 4}, "global_steps": 7}
    await worker._compute_score([], row)
    await worker._compute_score([], {"global_steps": 8})
    assert seen == [{"index": 4, "global_steps": 7}, {"global_steps": 8}]
    assert row["extra_info"] == {"index": 4}


def test_the_settings_of_the_gain_are_those_of_the_configuration():
    from arpo_verl.integration.rollout.signals import GainSettings, SignalSource

    with initialize_config_module("arpo_verl.config", version_base=None):
        config = compose("arpo_trainer", overrides=["arpo.information_gain=true"])
    assert SignalSource.of(config).gain == GainSettings()
    OmegaConf.update(config, "arpo.information_gain_kwargs", {"max_seconds": 5}, force_add=True)
    assert SignalSource.of(config).gain.max_seconds == 5
