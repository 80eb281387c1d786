"""How the manager tells prompts apart that are the same, and what the worker says of a prompt that fails."""

import asyncio
import contextlib
import math

import numpy as np
import pytest
from omegaconf import OmegaConf
from verl.experimental.agent_loop.agent_loop import AgentLoopMetrics, AgentLoopOutput
from verl.utils import tensordict_utils

from arpo_verl.config import ArpoConfig
from arpo_verl.integration.rollout import worker as worker_module
from arpo_verl.integration.rollout.worker import ArpoAgentLoopWorker, Occurrences
from arpo_verl.rollout.tree import Leaf
from arpo_verl.rules import build_rule


def batch(*rows: tuple[int, str], step: int = 1, validate: bool = False):
    """A batch of (index, question) rows as `_next_train_batch` and `_validate` make it."""
    messages = np.empty(len(rows), dtype=object)
    messages[:] = [[{"role": "user", "content": question}] for _, question in rows]
    made = tensordict_utils.get_tensordict(
        {"index": np.array([index for index, _ in rows], dtype=object), "raw_prompt": messages}
    )
    tensordict_utils.assign_non_tensor_data(made, "global_steps", step)
    if validate:
        tensordict_utils.assign_non_tensor_data(made, "validate", True)
    return made


def test_rows_that_are_the_same_prompt_are_numbered_in_their_order():
    rows = [(3, "a"), (4, "b"), (3, "a"), (3, "c"), (3, "a"), (4, "b")]
    assert Occurrences().number(batch(*rows)) == [0, 0, 1, 0, 2, 1]


def test_prompts_that_are_fetched_later_in_a_step_go_on_counting():
    occurrences = Occurrences()
    assert occurrences.number(batch((3, "a"), (4, "b"))) == [0, 0]
    assert occurrences.number(batch((3, "a"), (5, "c"))) == [1, 0]


def test_each_step_and_its_validation_begin_anew_as_in_a_resumed_run():
    occurrences = Occurrences()
    assert occurrences.number(batch((3, "a"), step=1)) == [0]
    assert occurrences.number(batch((3, "a"), step=1, validate=True)) == [0]
    assert occurrences.number(batch((3, "a"), step=2)) == [0]


def test_rows_without_an_index_of_their_own_are_told_apart_by_their_messages():
    assert Occurrences().number(batch((0, "a"), (0, "b"), (0, "c"))) == [0, 0, 0]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (KeyError("score"), "KeyError: 'score'"),
        (ValueError("x" * 1000), "ValueError: " + "x" * 288),
        (asyncio.CancelledError(), "CancelledError: "),
        (ValueError("\ud83d lone \udcff"), "ValueError: \ufffd lone \ufffd"),
    ],
)
def test_a_prompt_that_fails_says_why_in_its_tags(monkeypatch, error, said):
    tags = []

    async def put(key, partition_id, tag):
        tags.append((key, partition_id, tag))

    async def take_back(uid, partition_id):
        tags.append("taken back")

    async def fail(*args):
        raise error

    monkeypatch.setattr("transfer_queue.async_kv_put", put)
    monkeypatch.setattr("arpo_verl.integration.rollout.worker.take_back", take_back)
    worker = object.__new__(ArpoAgentLoopWorker)
    worker.config = OmegaConf.create({"algorithm": {"adv_estimator": "arpo"}})
    worker._grow, worker._grows_trees = fail, True
    outcome = contextlib.nullcontext() if isinstance(error, Exception) else pytest.raises(asyncio.CancelledError)
    with outcome:
        asyncio.run(worker._run_prompt({"uid": "a"}, {}, {"validate": False}))
    assert tags == [
        ("a", "train", {"status": "running"}),
        "taken back",
        ("a", "train", {"status": "failure", "failure": said}),
    ]


@pytest.mark.parametrize(
    ("reward", "known", "published"),
    [
        (0.5, 0.5, 0.5),
        (math.nan, None, math.nan),
        (None, None, None),
        (ValueError("no such truth"), None, math.nan),
        ("hangs", None, math.nan),
    ],
    ids=["number", "nan", "after the rollout", "fails", "hangs"],
)
def test_a_leaf_is_scored_once_before_it_is_decided_about_and_loses_nothing_where_that_fails(
    monkeypatch, reward, known, published
):
    asked, rows = [], []

    async def stock_score(self, outputs, kwargs):
        if outputs[-1].reward_score is not None:
            return
        asked.append(kwargs["session_id"])
        if isinstance(reward, Exception):
            raise reward
        if reward == "hangs":
            await asyncio.sleep(60)
        outputs[-1].reward_score = reward

    async def put(self, output, validate, **fields):
        await self._compute_score([output], kwargs=fields)
        rows.append((fields["session_id"], output.reward_score))

    class OneLeaf:
        async def grow_tree(self, sampling_params, request, on_leaf, sample, score):
            leaf = Leaf(0, "0", "s/0")
            metrics = AgentLoopMetrics()
            output = AgentLoopOutput(prompt_ids=[1], response_ids=[2], response_mask=[1], metrics=metrics)
            await score(leaf, output)
            self.reward = leaf.reward
            await on_leaf(leaf, output)

    monkeypatch.setattr(worker_module._StockWorker, "_compute_score", stock_score)
    monkeypatch.setattr(ArpoAgentLoopWorker, "_agent_loop_postprocess", put)
    loop = OneLeaf()
    monkeypatch.setattr(worker_module.TreeAgentLoop, "of_worker", lambda *args: loop)
    worker = object.__new__(ArpoAgentLoopWorker)
    worker.config = OmegaConf.create({"actor_rollout_ref": {"rollout": {"n": 1}}})
    worker._arpo = ArpoConfig(max_reward_seconds=0.05, rule="sample", rule_kwargs={"gate": "failed"})
    worker._rule, worker._hints, worker.llm_client = build_rule(worker._arpo), None, None
    trajectory = {"validate": False, "step": 1, "sample_index": 0}
    asyncio.run(worker._grow({"uid": "a", "arpo_occurrence": 0}, {}, trajectory))
    assert loop.reward == known
    assert asked == ([0] if reward is not None else [0, 0, 0])  # where no reward comes verl asks nobody
    [(session, of_row)] = rows
    assert (session, str(of_row)) == (0, str(published))
