"""The advantage step of all three V1 trainers on a real TransferQueue: hard advantage, padding rows, bad rewards, and
verl's actor loss on what the step leaves in the queue."""

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
    rows, metrics = step(tq, mode, advantage, rewards)
    return {key: row["advantages"].tolist() for key, row in rows.items()}, metrics


def step(tq, mode: str, advantage: str, rewards: dict | None = None) -> tuple[dict[str, dict], dict]:
    """Take the trainer's advantage step; return what the queue holds of each row then, and the step's metrics."""
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
    trainer._is_ours, trainer._state, trainer._without_reward = True, SaveOnStop(trainer), set()
    trainer.config, trainer.parameter_sync_step, trainer.global_steps = config, 1, 1
    trainer.logger = types.SimpleNamespace(log=lambda data, step: None)
    batch = put(tq, rewards or {})
    metrics: dict = {}
    trainer._compute_advantage(batch, metrics)
    names = ["prompts", "responses", "response_mask", "loss_mask", "advantages", "rm_scores"]
    fields = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=names)
    tq.kv_clear(partition_id="train", keys=batch.keys)
    columns = [fields[name].unbind() for name in names]
    return {key: dict(zip(names, row, strict=True)) for key, *row in zip(batch.keys, *columns, strict=True)}, metrics


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


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("advantage", ["soft", "hard"])
@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
def test_a_leaf_whose_reward_is_no_number_has_empty_masks_and_no_advantage(transfer_queue, mode, advantage, bad):
    rows, metrics = step(transfer_queue, mode, advantage, {("b", 1): bad, ("a", 0): bad})
    assert metrics["arpo/bad_reward_fraction"] == 0.5
    for (uid, session, _, mask, _), is_bad in zip(LEAVES, [True, False, False, True], strict=True):
        row = rows[f"{uid}_{session}_0"]
        expected = [0] * len(mask) if is_bad else mask
        assert row["response_mask"].tolist() == row["loss_mask"].tolist() == expected
        assert row["response_mask"].dtype == row["loss_mask"].dtype == torch.int64
        # One leaf of each prompt is left: there is nothing to compare it with.
        assert row["advantages"].tolist() == [0] * len(mask)


@pytest.mark.parametrize("advantage", ["soft", "hard"])
def test_a_leaf_without_a_reward_leaves_the_other_prompts_as_they_are(transfer_queue, advantage):
    rows, _ = advantages(transfer_queue, "sync", advantage, {("b", 1): math.nan})
    assert rows["b_1_0"] == [0, 0, 0] and rows["b_0_0"] == [0, 0]
    assert rows["a_0_0"] == {"soft": [0.5, 0.5, 0, 0.5], "hard": [0, 0, 0, 0.5]}[advantage]


def actor_loss(rows: dict[str, dict], **settings) -> tuple[float, dict[str, list[float]]]:
    """Return verl's loss on rows, with the KL loss, and its gradient by each row's tokens, as the engine calls it."""
    from tensordict import TensorDict
    from verl.utils import tensordict_utils
    from verl.workers.config import FSDPActorConfig
    from verl.workers.utils.losses import ppo_loss

    def nested(values: list[torch.Tensor]) -> torch.Tensor:
        return torch.nested.as_nested_tensor(values, layout=torch.jagged)

    columns = {name: nested([row[name] for row in rows.values()]) for name in next(iter(rows.values()))}
    like = [torch.full(row["responses"].shape, -1.0) for row in rows.values()]
    data = TensorDict(columns | {"old_log_probs": nested(like), "ref_log_prob": nested(like)}, batch_size=len(rows))
    # verl 0.9.1, workers/engine/fsdp/transformer_impl.py, forward_backward_batch.
    tokens = data["loss_mask"].sum().item()
    tensordict_utils.assign_non_tensor(data, batch_num_tokens=tokens, dp_size=1, global_batch_size=None)
    logprobs = [torch.full((len(row["prompts"]) + len(row["responses"]),), -0.9) for row in rows.values()]
    logprobs = [one.requires_grad_() for one in logprobs]
    kl = {"use_kl_loss": True, "kl_loss_coef": 0.5}
    sizes = {"rollout_n": 2, "ppo_mini_batch_size": 2, "ppo_micro_batch_size_per_gpu": 1}
    config = FSDPActorConfig(strategy="fsdp", **sizes, **kl, **settings)
    loss, _ = ppo_loss(config, {"log_probs": nested(logprobs)}, data)
    gradients = torch.autograd.grad(loss, logprobs)
    return loss.item(), {key: one.tolist() for key, one in zip(rows, gradients, strict=True)}


@pytest.mark.parametrize("aggregation", ["token-mean", "seq-mean-token-sum", "seq-mean-token-mean"])
@pytest.mark.parametrize("advantage", ["soft", "hard"])
def test_the_actors_loss_is_that_of_the_batch_without_the_leaf_that_has_no_reward(
    transfer_queue, advantage, aggregation
):
    rows, _ = step(transfer_queue, "sync", advantage, {("b", 1): math.nan})
    loss, gradients = actor_loss(rows, loss_agg_mode=aggregation)
    assert gradients["b_1_0"] == [0] * 6
    del rows["b_1_0"]
    loss_without, gradients_without = actor_loss(rows, loss_agg_mode=aggregation)
    assert loss == pytest.approx(loss_without, rel=1e-6) and loss != 0
    for key, gradient in gradients_without.items():
        assert gradients[key] == pytest.approx(gradient, rel=1e-6)
    assert any(gradients["a_0_0"])


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
        transfer_queue.kv_put(key=key, partition_id="own", fields={"uid": key}, tag={"status": "success"})
    transfer_queue.kv_put(key="a", partition_id="own", tag={"status": "running", "is_prompt": True})
    asyncio.run(take_back("a", "own"))
    assert sorted(transfer_queue.kv_list("own")["own"]) == ["a", "ab_0_0", "b_0_0"]
    asyncio.run(take_back("a", "own"))
    transfer_queue.kv_clear(partition_id="own", keys=["a", "ab_0_0", "b_0_0"])
    asyncio.run(take_back("a", "own"))
