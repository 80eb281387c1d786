"""The advantage step of all three V1 trainers on a real TransferQueue: hard advantage, padding rows, bad rewards."""

import asyncio
import math
import types

import pytest
import torch
from hydra import compose, initialize_config_module

pytestmark = pytest.mark.slow

PROMPT_TOKENS = 3
# Two prompts of two leaves: (prompt, session, segments, sampled, reward). The leaves of prompt a share their first
# call and its result; those of b share nothing.
LEAVES = [
    ("a", 0, [0, 0, 1, 4], [1, 1, 0, 1], 1.0),
    ("a", 1, [0, 0, 1, 3, 3], [1, 1, 0, 1, 1], 0.0),
    ("b", 0, [0, 0], [1, 1], 2.0),
    ("b", 1, [1, 1, 1], [1, 1, 1], 0.0),
]


@pytest.fixture(scope="module")
def transfer_queue():
    import ray
    import transfer_queue as tq

    with initialize_config_module("arpo_verl.config", version_base=None):
        config = compose("arpo_trainer", overrides=["platform=cpu"])
    ray.init(address="local", num_cpus=8, include_dashboard=False)
    tq.init(config.transfer_queue)
    yield tq
    ray.shutdown()


def put(tq, rewards: dict[tuple[str, int], float]):
    """Publish the leaves as the worker does and return verl's batch of them, padded to six rows."""
    from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    keys, fields, tags = [], [], []
    for uid, session, segments, mask, reward in LEAVES:
        scores = torch.zeros(len(mask))
        scores[-1] = rewards.get((uid, session), reward)
        ids = torch.arange(PROMPT_TOKENS + len(mask))
        record = {
            "leaves": 2, "number": session, "parent": None, "path": str(session), "fork_token": None,
            "is_top_up": False, "stop_reason": "completed", "is_result_cut": False, "is_excluded": False,
            "segments": [], "calls": [], "entropy_initial": None, "decisions": [], "weight_versions": [1, 1],
            "requested_tokens": 0, "cached_tokens": 0,
        }  # fmt: skip
        keys.append(f"{uid}_{session}_0")
        fields.append(
            {
                "uid": uid,
                "prompts": ids[:PROMPT_TOKENS],
                "responses": ids[PROMPT_TOKENS:],
                "input_ids": ids,
                "position_ids": ids,
                "response_mask": torch.tensor(mask),
                "loss_mask": torch.tensor(mask),
                "rm_scores": scores,
                "segment_ids": torch.tensor(segments),
                "entropy": torch.ones(len(mask)),
                "extra_fields": {"arpo": record},
            }
        )
        tags.append({"seq_len": len(ids), "prompt_len": PROMPT_TOKENS, "response_len": len(mask), "status": "success"})
    tq.kv_batch_put(keys=keys, partition_id="train", fields=list_of_dict_to_tensordict(fields), tags=tags)
    batch = tq.KVBatchMeta(partition_id="train", keys=keys, tags=tags)
    return upsample_batch_to_divisible_size(batch, 6, 0)


def advantages(tq, mode: str, advantage: str, rewards: dict | None = None) -> tuple[dict[str, list[float]], dict]:
    """Take the trainer's advantage step; return each leaf's advantages and the step's metrics."""
    from verl.trainer.ppo.v1 import get_trainer_cls

    from arpo_verl.integration.save_on_stop import SaveOnStop

    overrides = [
        "platform=cpu",
        f"arpo.advantage={advantage}",
        "data.train_batch_size=2",
        "actor_rollout_ref.rollout.n=2",
    ]
    with initialize_config_module("arpo_verl.config", version_base=None):
        config = compose("arpo_trainer", overrides=[*overrides, "algorithm.norm_adv_by_std_in_grpo=False"])
    trainer = object.__new__(get_trainer_cls(mode))
    trainer._is_ours, trainer._state = True, SaveOnStop(trainer)
    trainer.config, trainer.parameter_sync_step, trainer.global_steps = config, 1, 1
    trainer.logger = types.SimpleNamespace(log=lambda data, step: None)
    batch = put(tq, rewards or {})
    metrics: dict = {}
    trainer._compute_advantage(batch, metrics)
    rows = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=["advantages"])["advantages"].unbind()
    tq.kv_clear(partition_id="train", keys=batch.keys)
    return {key: row.tolist() for key, row in zip(batch.keys, rows, strict=True)}, metrics


@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
def test_segments_reach_the_estimator_in_every_mode(transfer_queue, mode):
    hard, metrics = advantages(transfer_queue, mode, "hard")
    # a: 0.5 and -0.5, of which the shared first call has the mean 0; b: 1 and -1.
    assert hard["a_0_0"] == [0, 0, 0, 0.5]
    assert hard["a_1_0"] == [0, 0, 0, -0.5, -0.5]
    assert hard["b_0_0"] == [1, 1]
    assert hard["b_1_0"] == [-1, -1, -1]
    padding = [row for key, row in hard.items() if key.startswith("pad")]
    assert padding == [[0], [0]]
    assert metrics["arpo/leaves"] == 2
    soft, _ = advantages(transfer_queue, mode, "soft")
    assert soft["a_0_0"] == [0.5, 0.5, 0, 0.5]


def test_a_reward_that_is_no_number_leaves_its_leaf_out_and_is_counted(transfer_queue):
    rows, metrics = advantages(transfer_queue, "sync", "soft", {("b", 1): math.nan})
    assert rows["b_1_0"] == [0, 0, 0]
    # The only leaf of b that counts keeps its reward, as a prompt's only leaf does.
    assert rows["b_0_0"] == [2, 2]
    assert rows["a_0_0"] == [0.5, 0.5, 0, 0.5]
    assert metrics["arpo/bad_reward_fraction"] == 0.25


def test_a_batch_without_a_leaf_to_train_on_is_an_error(transfer_queue):
    nothing = {(uid, session): math.nan for uid, session, *_ in LEAVES}
    with pytest.raises(RuntimeError, match="all 4 leaves are left out"):
        advantages(transfer_queue, "sync", "soft", nothing)


def test_finished_prompts_are_asked_again_by_a_run_that_resumes_after_its_tools_have_failed(transfer_queue):
    from arpo_verl.integration.save_on_stop import requeue_finished_prompts

    states = {"a": ("finished", True), "b": ("running", True), "a_0_0": ("success", False)}
    for key, (status, is_prompt) in states.items():
        tag = {"status": status, "is_prompt": is_prompt, "global_steps": 3}
        transfer_queue.kv_put(key=key, partition_id="train", fields={"uid": key}, tag=tag)
    requeue_finished_prompts("train")
    tags = transfer_queue.kv_list("train")["train"]
    transfer_queue.kv_clear(partition_id="train", keys=list(states))
    assert {key: tags[key]["status"] for key in states} == {"a": "pending", "b": "running", "a_0_0": "success"}
    assert tags["a"]["global_steps"] == 3


def test_the_leaves_of_a_prompt_that_fails_are_taken_back_and_no_others(transfer_queue):
    from arpo_verl.integration.worker import take_back

    for key in ("a_0_0", "a_1_0", "ab_0_0", "b_0_0"):
        transfer_queue.kv_put(key=key, partition_id="train", fields={"uid": key}, tag={"status": "success"})
    transfer_queue.kv_put(key="a", partition_id="train", tag={"status": "running", "is_prompt": True})
    asyncio.run(take_back("a", "train"))
    assert sorted(transfer_queue.kv_list("train")["train"]) == ["a", "ab_0_0", "b_0_0"]
    asyncio.run(take_back("a", "train"))
    transfer_queue.kv_clear(partition_id="train", keys=["a", "ab_0_0", "b_0_0"])
    asyncio.run(take_back("a", "train"))
