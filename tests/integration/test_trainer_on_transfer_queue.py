"""The advantage step of all three V1 trainers on a real TransferQueue: hard advantage, padding rows, bad rewards, and
verl's actor loss on what the step leaves in the queue."""

import asyncio
import itertools
import math
import sys
import types

import pytest
import torch
from hydra import compose, initialize_config_module

pytestmark = [pytest.mark.slow, pytest.mark.engine]

PROMPT_TOKENS = 3
# Two prompts of two leaves: (prompt, session, segments, sampled, reward). The leaves of prompt a share their first
# call and its result; those of b share nothing.
LEAVES = [
    ("a", 0, [0, 0, 1, 4], [1, 1, 0, 1], 1.0),
    ("a", 1, [0, 0, 1, 3, 3], [1, 1, 0, 1, 1], 0.0),
    ("b", 0, [0, 0], [1, 1], 2.0),
    ("b", 1, [1, 1, 1], [1, 1, 1], 0.0),
]
FORKS = {("a", 1): (0, 3)}
"""(parent, tokens shared) of the leaves that have forked."""


def put(tq, rewards: dict[tuple[str, int], float]):
    """Publish the leaves as the worker does and return verl's batch of them, padded to six rows."""
    from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    keys, fields, tags = [], [], []
    for uid, session, segments, mask, reward in LEAVES:
        scores = torch.zeros(len(mask))
        scores[-1] = rewards.get((uid, session), reward)
        ids = torch.arange(PROMPT_TOKENS + len(mask))
        runs = [(run, len(list(tokens))) for run, tokens in itertools.groupby(zip(segments, mask, strict=True))]
        records_of_segments = [{"id": own, "tokens": size, "is_sampled": bool(one)} for (own, one), size in runs]
        turns = sum(is_sampled for (_, is_sampled), _ in runs)
        record = {
            "leaves": 2, "number": session, "parent": FORKS.get((uid, session), (None, None))[0],
            "path": str(session), "fork_token": FORKS.get((uid, session), (None, None))[1],
            "is_top_up": False, "stop_reason": "completed", "is_result_cut": False, "is_excluded": False,
            "segments": records_of_segments, "calls": [], "entropy_initial": None, "decisions": [],
            "weight_versions": [1, 1], "requested_tokens": 0, "cached_tokens": 0,
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
                "entropy": torch.ones(len(mask)) / 2,
                "old_log_probs": -torch.ones(len(mask)),
                "extra_fields": {"arpo": record, "reward_extra_info": {"turn_rewards": [float(session)] * turns}},
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


def step(
    tq, mode: str, advantage: str, rewards: dict | None = None, added: tuple[str, ...] = ()
) -> tuple[dict[str, dict], dict]:
    """Take the trainer's advantage step; return what the queue holds of each row then, and the step's metrics."""
    from verl.trainer.ppo.v1 import get_trainer_cls

    from arpo_verl.integration.settings import RunParts
    from arpo_verl.integration.training.entropy_history import EntropyHistory
    from arpo_verl.integration.training.policy_loss import ChosenLoss
    from arpo_verl.integration.training.rule_memory import RuleMemory
    from arpo_verl.integration.training.save_on_stop import SaveOnStop

    overrides = [
        "platform=cpu",
        f"arpo.advantage={advantage}",
        "data.train_batch_size=2",
        "actor_rollout_ref.rollout.n=2",
        *added,
    ]
    with initialize_config_module("arpo_verl.config", version_base=None):
        config = compose("arpo_trainer", overrides=[*overrides, "algorithm.norm_adv_by_std_in_grpo=False"])
    trainer = object.__new__(get_trainer_cls(mode))
    trainer._parts, trainer._loss, trainer._entropies = RunParts.of(config), ChosenLoss.of(config), EntropyHistory()
    trainer._state, trainer._without_reward = SaveOnStop(trainer), set()
    trainer._rule_memory = RuleMemory(None)
    trainer.config, trainer.parameter_sync_step, trainer.global_steps = config, 1, 1
    trainer.logger = types.SimpleNamespace(log=lambda data, step: None)
    batch = put(tq, rewards or {})
    metrics: dict = {}
    batch = trainer._compute_advantage(batch, metrics)
    names = ["prompts", "responses", "response_mask", "loss_mask", "advantages", "rm_scores", "uid"]
    names += [name for name in batch.fields if name.startswith("arpo_loss_")]
    fields = tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=names)
    tq.kv_clear(partition_id="train", keys=batch.keys)
    columns = [fields[name].unbind() if name != "uid" else list(fields[name]) for name in names]
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

    names = [name for name in next(iter(rows.values())) if name != "uid"]
    columns = {name: nested([row[name] for row in rows.values()]) for name in names}
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


QUEUE_AT_AN_END = {
    "train": {
        "a": ("finished", True), "a_0_0": ("success", False),
        "b": ("running", True), "b_0_0": ("success", False),
        "c": ("failure", True), "c_1_0": ("success", False),
        "d": ("pending", True),
        # Taken out to be trained on, with a padding row, when the run has ended.
        "e_0_0": ("success", False), "e_1_0": ("success", False), "padding_0_0": ("success", False),
    },
    "val": {"f": ("finished", True), "f_0_0": ("success", False), "g": ("running", True)},
}  # fmt: skip


@pytest.fixture
def queue_at_an_end(transfer_queue):
    """The queue of an asynchronous run that has ended between sampling and the advantage."""
    empty(transfer_queue)
    for partition, rows in QUEUE_AT_AN_END.items():
        for key, (status, is_prompt) in rows.items():
            tag = {"status": status, "is_prompt": is_prompt, "global_steps": 3} if is_prompt else {"status": status}
            fields = {"raw_prompt": "question"} if is_prompt else {"responses": torch.tensor([1, 2])}
            transfer_queue.kv_put(key=key, partition_id=partition, fields={"uid": key} | fields, tag=tag)
    yield transfer_queue
    empty(transfer_queue)


def empty(tq) -> None:
    for partition, tags in tq.kv_list().items():
        if tags:
            tq.kv_clear(partition_id=partition, keys=list(tags))


@pytest.mark.parametrize("are_leaves_bad", [False, True])
def test_a_queue_that_is_saved_at_an_end_has_whole_prompts_alone(queue_at_an_end, are_leaves_bad):
    from arpo_verl.integration.training.queue_rows import keep_what_a_resumed_run_can_use

    for _ in range(2):  # the second time there is nothing to do
        keep_what_a_resumed_run_can_use("train", are_leaves_bad)
        tags = queue_at_an_end.kv_list()
        assert not tags.get("val")
        assert {key: tag["status"] for key, tag in tags["train"].items()} == {
            "a": "pending" if are_leaves_bad else "finished", "a_0_0": "success",
            "b": "running", "b_0_0": "success", "c": "pending", "c_1_0": "success", "d": "pending",
        }  # fmt: skip
        assert tags["train"]["c"]["global_steps"] == 3


def test_a_run_resumes_from_a_queue_that_was_saved_between_sampling_and_the_advantage(queue_at_an_end, tmp_path):
    """verl's own trainer loads it, asks again what has not ended, and samples whole prompts, one of each."""
    from omegaconf import OmegaConf
    from verl.trainer.ppo.v1 import get_trainer_cls
    from verl.trainer.ppo.v1.replay_buffer import ReplayBufferAsync

    from arpo_verl.integration.training.save_on_stop import SaveOnStop

    tq = queue_at_an_end
    state = SaveOnStop(types.SimpleNamespace(trainer_mode="colocate_async", config=OmegaConf.create({})))
    assert state._has_saved_queue(2, tmp_path, are_leaves_bad=False)
    empty(tq)
    tq.load_checkpoint(str(tmp_path / "transfer_queue"))

    trainer = object.__new__(get_trainer_cls("colocate_async"))
    trainer.trainer_mode, trainer.global_steps = "colocate_async", 3
    asked = []
    trainer.agent_loop_manager = types.SimpleNamespace(generate_sequences=asked.append)
    assert trainer._reissue_inflight_prompts() == 3
    assert sorted(asked[0]["uid"]) == ["b", "c", "d"]
    for uid in ("b", "c", "d"):  # they are grown
        tq.kv_put(key=f"{uid}_0_0", partition_id="train", fields={"uid": uid}, tag={"status": "success"})
        tq.kv_put(key=uid, partition_id="train", tag={"status": "finished"})
    buffer = ReplayBufferAsync("colocate_async", OmegaConf.create({}), None, "drop", OmegaConf.create({}), 0.01)
    batch, _ = buffer.sample(3, "train", 4)
    assert sorted(batch.keys) == ["a_0_0", "b_0_0", "c_0_0", "d_0_0"]


def test_the_leaves_of_a_prompt_that_fails_are_taken_back_and_no_others(transfer_queue):
    from arpo_verl.integration.rollout.worker import take_back

    for key in ("a_0_0", "a_1_0", "ab_0_0", "b_0_0"):
        transfer_queue.kv_put(key=key, partition_id="own", fields={"uid": key}, tag={"status": "success"})
    transfer_queue.kv_put(key="a", partition_id="own", tag={"status": "running", "is_prompt": True})
    asyncio.run(take_back("a", "own"))
    assert sorted(transfer_queue.kv_list("own")["own"]) == ["a", "ab_0_0", "b_0_0"]
    asyncio.run(take_back("a", "own"))
    transfer_queue.kv_clear(partition_id="own", keys=["a", "ab_0_0", "b_0_0"])
    asyncio.run(take_back("a", "own"))


OWN = """
import torch

SEEN = []

def watching(batch):
    SEEN.append(batch)
    return torch.ones(batch.response_mask.shape), {"scale": batch.turn_ids / 2}
def naming(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights=None, *,
           entropy, segment_ids, turn_ids, is_excluded, past_entropy, scale, weight=1.0): ...
def asking(old_log_prob, log_prob, advantages, response_mask, loss_agg_mode, config, rollout_is_weights=None, *,
           absent): ...
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "arpo_own_training.py").write_text(OWN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("arpo_own_training", None)


@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
def test_the_whole_tree_reaches_an_own_advantage(transfer_queue, own, mode):
    import arpo_own_training

    step(transfer_queue, mode, "arpo_own_training.watching", {("b", 1): math.nan})
    [batch] = arpo_own_training.SEEN
    rows = {tuple(ids): row for row, ids in enumerate(batch.segment_ids.tolist())}
    segments = [(0, 0, 1, 4, -1), (0, 0, 1, 3, 3), (0, 0, -1, -1, -1), (1, 1, 1, -1, -1)]
    leaves = first, fork, lone, _ = [rows[ids] for ids in segments]
    assert batch.parents[leaves].tolist() == [-1, first, -1, -1]
    assert batch.fork_tokens[leaves].tolist() == [0, 3, 0, 0]
    assert batch.turn_ids[fork].tolist() == [1, 1, 0, 2, 2]
    assert batch.turn_rewards[[first, fork]].nan_to_num(-1).tolist() == [[0, 0], [1, 1]]
    assert batch.entropies[first].tolist() == [0.5, 0.5, 0.5, 0.5, 0]
    assert batch.log_probs[lone].tolist() == [-1, -1, 0, 0, 0]
    assert batch.is_excluded.tolist() == [row not in (first, fork, lone) for row in range(6)]  # padding rows too
    assert batch.is_counted.tolist() == (~batch.is_excluded).tolist()
    assert (batch.prompt[first] == batch.prompt[fork]) and (batch.prompt[lone] != batch.prompt[fork])
    assert batch.rewards[leaves].tolist() == [1, 0, 2, 0]


def test_what_a_loss_names_is_put_into_the_queue_and_nothing_else(transfer_queue, own):
    loss = ("arpo.loss=arpo_own_training.naming",)
    rows, _ = step(transfer_queue, "sync", "arpo_own_training.watching", {("b", 1): math.nan}, loss)
    names = {"segment_ids", "turn_ids", "is_excluded", "past_entropy", "scale"}
    assert {name for name in rows["a_1_0"] if name.startswith("arpo_loss_")} == {f"arpo_loss_{name}" for name in names}
    assert rows["a_1_0"]["arpo_loss_turn_ids"].tolist() == [1, 1, 0, 2, 2]
    assert rows["a_1_0"]["arpo_loss_segment_ids"].tolist() == [0, 0, 1, 3, 3]
    assert rows["a_1_0"]["arpo_loss_scale"].tolist() == [0.5, 0.5, 0, 1, 1]
    assert rows["a_1_0"]["arpo_loss_past_entropy"].isnan().all()
    assert rows["a_1_0"]["arpo_loss_is_excluded"].tolist() == [0] * 5
    assert rows["b_1_0"]["arpo_loss_is_excluded"].tolist() == [1] * 3
    for key, row in rows.items():
        if key.startswith("pad"):
            assert row["arpo_loss_segment_ids"].tolist() == [-1] and row["arpo_loss_is_excluded"].tolist() == [1]
    without, _ = step(transfer_queue, "sync", "soft")
    assert not [name for name in without["a_1_0"] if name.startswith("arpo_loss_")]


def test_a_loss_that_names_what_there_is_not_ends_the_first_step(transfer_queue, own):
    with pytest.raises(ValueError, match=r"has the parameters \['absent'\], which nothing fills in"):
        step(transfer_queue, "sync", "soft", None, ("arpo.loss=arpo_own_training.asking",))


def test_an_advantage_takes_tokens_out_of_the_loss_and_its_denominators(transfer_queue):
    """The shared call of prompt a has no sibling; its two answers have each other, and so have the leaves of b."""
    masked = (
        "+arpo.advantage_kwargs={terms: [{unit: node, baseline: parent}], silent_turns: mask, clip_scale: entropy_hat}"
    )
    loss = ("arpo.loss=composed", "+arpo.loss_kwargs={ratio: turn, clip_scale: entropy_hat}")
    rows, metrics = step(transfer_queue, "sync", "term_sum", {("b", 1): math.nan}, (masked, *loss))
    assert rows["a_0_0"]["loss_mask"].tolist() == [0, 0, 0, 1] == rows["a_0_0"]["response_mask"].tolist()
    assert rows["a_1_0"]["loss_mask"].tolist() == [0, 0, 0, 1, 1] == rows["a_1_0"]["response_mask"].tolist()
    assert rows["a_1_0"]["advantages"].tolist() == [0, 0, 0, -0.5, -0.5]
    # The other leaf of b has no reward, so that the one that is left has no sibling.
    assert rows["b_0_0"]["loss_mask"].tolist() == [0, 0] and rows["b_1_0"]["loss_mask"].tolist() == [0] * 3
    assert metrics["arpo/trained_fraction"] == pytest.approx(3 / 9)
    names = {"turn_ids", "entropy_hat", "row_weight", "is_replay"}
    assert {name for name in rows["a_1_0"] if name.startswith("arpo_loss_")} == {f"arpo_loss_{name}" for name in names}
    assert rows["a_1_0"]["arpo_loss_turn_ids"].tolist() == [1, 1, 0, 2, 2]


# Centred rewards without the deviation: a 0.5 and -0.5, b 1 and -1; rloo compares with the other leaf alone.
ESTIMATORS = {"grpo": (0.5, 1.0), "rloo": (1.0, 2.0), "rloo_vectorized": (1.0, 2.0), "opo": (None, None)}


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("bad", [None, math.nan])
def test_verls_own_estimators_are_used_on_trees(transfer_queue, estimator, bad):
    rewards = {} if bad is None else {("b", 1): bad}
    tree = (f"algorithm.adv_estimator={estimator}", "arpo.rollout=tree")
    rows, metrics = step(transfer_queue, "sync", "soft", rewards, tree)
    half, whole = ESTIMATORS[estimator]
    assert metrics["arpo/leaves"] == 2
    assert all(bool(row["advantages"].isfinite().all()) for row in rows.values())
    if half is not None:
        assert rows["a_0_0"]["advantages"].tolist() == pytest.approx([half, half, 0, half], abs=1e-5)
        assert rows["a_1_0"]["advantages"].tolist() == pytest.approx([-half, -half, 0, -half, -half], abs=1e-5)
    if bad is None:
        assert whole is None or rows["b_1_0"]["advantages"].tolist() == pytest.approx([-whole] * 3, abs=1e-5)
        return
    # The leaf without a reward trains nothing and is in nobody's mean; the queue is as it was afterwards.
    assert rows["b_1_0"]["advantages"].tolist() == [0] * 3 == rows["b_1_0"]["loss_mask"].tolist()
    assert rows["b_1_0"]["rm_scores"][-1].isnan() and rows["b_1_0"]["uid"] == "b"


def test_our_advantage_is_used_on_leaves_that_do_not_branch(transfer_queue):
    rows, _ = step(transfer_queue, "sync", "soft", None, ("arpo.rollout=linear",))
    assert rows["a_0_0"]["advantages"].tolist() == [0.5, 0.5, 0, 0.5]
