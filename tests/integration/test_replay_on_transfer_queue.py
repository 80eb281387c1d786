"""Replay on a real TransferQueue: what a step of each source puts there, and what verl's advantage makes of it."""

import json
import math

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_module
from replay_examples import row

pytestmark = [pytest.mark.slow, pytest.mark.engine]

PROMPT = [11, 12, 13]
TOKENIZER_SIZE = 1000
# Two prompts of four leaves. Leaf 1 of prompt a has forked from leaf 0; the others of a share nothing.
SEGMENTS = {
    ("a", 0): [0, 0, 1, 2], ("a", 1): [0, 0, 1, 3, 3], ("a", 2): [4, 4], ("a", 3): [5],
    ("b", 0): [0, 0], ("b", 1): [1, 4, 5], ("b", 2): [2], ("b", 3): [3, 3],
}  # fmt: skip
MASKS = {("a", 0): [1, 1, 0, 1], ("a", 1): [1, 1, 0, 1, 1], ("b", 1): [1, 0, 1]}
FORKS = {("a", 1): (0, 3)}


class Tokenizer:
    """As much of a tokenizer as a source is told of."""

    eos_token_id = 0

    def get_vocab(self) -> dict[str, int]:
        return {str(number): number for number in range(TOKENIZER_SIZE)}

    def __len__(self) -> int:
        return TOKENIZER_SIZE


def record(uid: str, session: int) -> dict:
    ids = SEGMENTS[uid, session]
    pairs = zip(ids, MASKS.get((uid, session), [1] * len(ids)), strict=True)
    segments = [{"id": one, "tokens": ids.count(one), "is_sampled": bool(mask)} for one, mask in dict(pairs).items()]
    parent, fork_token = FORKS.get((uid, session), (None, None))
    return {
        "leaves": 4, "number": session, "parent": parent, "path": str(session), "fork_token": fork_token,
        "is_top_up": False, "stop_reason": "completed", "is_result_cut": False, "is_excluded": False,
        "segments": segments, "calls": [], "entropy_initial": None, "decisions": [], "weight_versions": [1, 1],
        "requested_tokens": 0, "cached_tokens": 0,
    }  # fmt: skip


def put(tq, step: int, rewards: dict, is_tree: bool):
    """Publish the leaves of a step as the worker does, and return verl's batch of them."""
    from verl.utils.tensordict_utils import list_of_dict_to_tensordict

    keys, fields, tags = [], [], []
    for (uid, session), segments in SEGMENTS.items():
        mask = MASKS.get((uid, session), [1] * len(segments))
        scores = torch.zeros(len(mask))
        scores[-1] = rewards.get((uid, session), 0.0)
        prompt = torch.tensor([*PROMPT, ord(uid)])
        responses = 20 + torch.arange(len(mask)) + 10 * session + 100 * step
        ids = torch.cat([prompt, responses])
        turns = [float(session)] * len({one for one, sampled in zip(segments, mask, strict=True) if sampled})
        extra_fields = {"reward_extra_info": {"turn_rewards": turns}} | (
            {"arpo": record(uid, session)} if is_tree else {}
        )
        one = {
            "uid": f"{uid}{step}", "session_id": session, "index": 0, "data_source": "test",
            "reward_model": {"ground_truth": uid}, "prompts": prompt, "responses": responses, "input_ids": ids,
            "position_ids": torch.arange(len(ids)), "response_mask": torch.tensor(mask),
            "loss_mask": torch.tensor(mask), "rm_scores": scores, "num_turns": 2, "multi_modal_inputs": {},
            "rollout_log_probs": torch.full((len(mask),), -1.5), "extra_fields": extra_fields,
        }  # fmt: skip
        fields.append(one | ({"segment_ids": torch.tensor(segments)} if is_tree else {}))
        keys.append(f"{uid}{step}_{session}_0")
        tags.append(
            {
                "seq_len": len(ids), "prompt_len": len(prompt), "response_len": len(mask), "status": "success",
                "global_steps": step, "min_global_steps": step, "max_global_steps": step,
            }
        )  # fmt: skip
    tq.kv_batch_put(keys=keys, partition_id="train", fields=list_of_dict_to_tensordict(fields), tags=tags)
    return tq.KVBatchMeta(partition_id="train", keys=keys, tags=tags)


class Run:
    """A trainer whose model passes are left out: log-probabilities are -1 everywhere, then the real advantage step."""

    def __init__(self, tq, folder, *overrides: str) -> None:
        from verl.trainer.ppo.v1 import get_trainer_cls

        from arpo_verl.integration.settings import RunParts
        from arpo_verl.integration.training.entropy_history import EntropyHistory
        from arpo_verl.integration.training.policy_loss import ChosenLoss
        from arpo_verl.integration.training.replay_step import Replay
        from arpo_verl.integration.training.rule_memory import RuleMemory
        from arpo_verl.integration.training.save_on_stop import SaveOnStop

        base = ["platform=cpu", "data.train_batch_size=2", "actor_rollout_ref.rollout.n=4"]
        base += ["actor_rollout_ref.actor.ppo_mini_batch_size=2", "data.max_response_length=16"]
        with initialize_config_module("arpo_verl.config", version_base=None):
            self.config = compose("arpo_trainer", overrides=[*base, *overrides])
        self.tq, self.folder = tq, folder
        self.replay = Replay.of(self.config)
        assert self.replay is not None
        self.replay.begin(Tokenizer(), None)
        trainer = object.__new__(get_trainer_cls("sync"))
        trainer._parts, trainer._loss = RunParts.of(self.config), ChosenLoss.of(self.config)
        trainer._entropies, trainer._state, trainer._without_reward = EntropyHistory(), SaveOnStop(trainer), set()
        trainer.config, trainer.parameter_sync_step, trainer._replay = self.config, 1, self.replay
        trainer._measured, trainer._rule_memory = {}, RuleMemory(None)
        self.trainer = trainer

    def step(self, number: int, rewards: dict) -> tuple[dict[str, dict], dict]:
        """Take a step, and return what the queue holds of each row at its end, and its metrics."""
        self.trainer.global_steps = number
        self.replay.step_begins()
        metrics: dict = {"training/rollout_probs_diff_valid": 1}
        is_tree = self.trainer._parts.grows_trees
        batch = self.replay.insert(put(self.tq, number, rewards, is_tree), metrics, number)
        batch = self._padded(batch)
        self._log_probs(batch)
        self.replay.log_probs_are_there(batch, metrics)
        batch = self.trainer._compute_advantage(batch, metrics)
        self.replay.step_ends(number)
        names = [name for name in batch.fields if name not in ("index", "session_id")]
        data = self.tq.kv_batch_get(keys=batch.keys, partition_id="train", select_fields=names)
        columns = {name: list(data[name].unbind() if hasattr(data[name], "unbind") else data[name]) for name in names}
        self.tq.kv_clear(partition_id="train", keys=batch.keys)
        rows = {key: {name: columns[name][at] for name in names} for at, key in enumerate(batch.keys)}
        for (key, one), tag in zip(rows.items(), batch.tags, strict=True):
            one["tag"] = tag
            assert (
                len(one["responses"]) == len(one["response_mask"]) == len(one["advantages"]) == tag["response_len"]
            ), key
            assert len(one["input_ids"]) == len(one["position_ids"]) == tag["seq_len"]
        return rows, metrics

    def _padded(self, batch):
        from verl.trainer.ppo.padding_utils import upsample_batch_to_divisible_size

        return upsample_batch_to_divisible_size(batch, 8, 0)

    def _log_probs(self, batch) -> None:
        from arpo_verl.integration.queue import put_columns, read_columns

        masks = read_columns(batch.keys, "train", ["response_mask"])["response_mask"]
        # Another number for each row, so that rows that are confused are seen.
        like = [torch.full(mask.shape, -1.0 - 0.001 * at) for at, mask in enumerate(masks)]
        put_columns(batch.keys, "train", {"old_log_probs": like, "entropy": [torch.ones(mask.shape) for mask in masks]})


OWN = ("arpo.replay=own", "+arpo.replay_kwargs.success=1.0")
TREE, LINEAR = ("arpo.rollout=tree",), ("arpo.rollout=linear", "algorithm.adv_estimator=grpo")
ALL_OF_A = {("a", 0): 1.0, ("b", 0): 0.5}


def settings(*names: str) -> tuple[str, ...]:
    return tuple(f"+arpo.replay_kwargs.{name}" for name in names)


@pytest.mark.parametrize(
    "kind", [TREE, LINEAR, (*LINEAR, "actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent")]
)
def test_a_stored_success_takes_the_place_of_one_leaf_of_the_group_that_has_failed(transfer_queue, tmp_path, kind):
    run = Run(transfer_queue, tmp_path, *OWN, *kind)
    rows, metrics = run.step(1, ALL_OF_A)
    assert metrics["replay/used"] == 0 and metrics["replay/kept"] == 1
    assert not any(one["tag"].get("is_replay") for one in rows.values())
    first = rows["a1_0_0"]
    rows, metrics = run.step(2, {("b", 1): 0.5})
    assert (metrics["replay/used"], metrics["replay/helped_fraction"], metrics["replay/age"]) == (1, 0.5, 1)
    assert (metrics["replay/stored"], metrics["replay/flat_fraction"]) == (1, 0.5)
    assert metrics["replay/grown_reward"] == pytest.approx(0.5 / 8)
    [key] = [key for key, one in rows.items() if one["tag"].get("is_replay")]
    # The last leaf of those that share nothing.
    assert key == "a2_3_0" and len(rows) == 8
    one = rows[key]
    for name in ("prompts", "responses", "input_ids", "position_ids", "response_mask", "loss_mask", "rm_scores"):
        assert one[name].tolist() == first[name].tolist() and one[name].dtype == first[name].dtype
    assert one["uid"] == "a2" and one["extra_fields"]["replayed"]["step"] == 1
    assert one["extra_fields"]["replayed"]["turn_rewards"] == ([0.0, 0.0] if kind == TREE else None)
    # ARPO-GUI's example: rewards (1, 0, 0, 0).
    expected = {"a2_0_0": -0.5, "a2_1_0": -0.5, "a2_2_0": -0.5, "a2_3_0": 1.5}
    for name, advantage in expected.items():
        sampled = rows[name]["advantages"][rows[name]["response_mask"] != 0]
        assert sampled.tolist() == pytest.approx([advantage] * len(sampled), abs=1e-4)
    # Its log-probabilities are the present policy's, those of the sampler its own.
    assert set(one["old_log_probs"].tolist()) == {rows[key]["old_log_probs"][0].item()}
    assert set(one["rollout_log_probs"].tolist()) == {-1.5}
    assert rows["b2_1_0"]["advantages"][0] == pytest.approx(1.5, abs=1e-4)


def test_a_replayed_row_is_no_part_of_the_tree_whose_leaf_it_replaces(transfer_queue, tmp_path):
    """All leaves of prompt a that fail are replaced but one: also one from which another has forked."""
    own = ("arpo.replay=own_replay_sources.All",)
    run = Run(transfer_queue, tmp_path, *own, "arpo.advantage=hard", "arpo.loss=own_replay_sources.naming")
    run.step(1, {("a", 0): 1.0})
    rows, metrics = run.step(2, {})
    assert metrics["replay/used"] == 3
    a = {key: one for key, one in rows.items() if key.startswith("a2")}
    assert [key for key, one in a.items() if one["tag"].get("is_replay")] == ["a2_0_0", "a2_2_0", "a2_3_0"]
    ids = [set(one["segment_ids"].tolist()) for one in a.values()]
    assert sum(map(len, ids)) == len(set.union(*ids))
    # Rewards (1, 0, 1, 1): nothing is shared, so that a row has its own advantage at each of its tokens.
    assert a["a2_1_0"]["advantages"][:2].tolist() == pytest.approx([-1.5, -1.5], abs=1e-4)
    assert a["a2_0_0"]["advantages"][:2].tolist() == pytest.approx([0.5, 0.5], abs=1e-4)
    assert a["a2_0_0"]["arpo_loss_is_replay"].tolist() == [True] * 4
    assert a["a2_1_0"]["arpo_loss_is_replay"].tolist() == [False] * 5
    assert a["a2_1_0"]["arpo_loss_row_weight"].tolist() == [1.0] * 5
    assert a["a2_0_0"]["arpo_loss_row_weight"].tolist() == [0.25] * 4


@pytest.mark.parametrize("loss", [(), ("arpo.loss=own_replay_sources.naming",)])
@pytest.mark.parametrize("kind", [TREE, LINEAR])
def test_imitated_rows_come_besides_with_an_advantage_of_their_own_and_a_weight(transfer_queue, tmp_path, kind, loss):
    imitation = ("arpo.replay=self_imitation", *settings("rows=1", "weight_steps=4", "success=1.0"))
    run = Run(transfer_queue, tmp_path, *imitation, *kind, *loss)
    before, metrics = run.step(1, ALL_OF_A)
    assert metrics["replay/kept"] == 1  # the other prompt's best has the same advantage of 1.5, and a lower reward
    own = before["a1_0_0"]
    rows, metrics = run.step(2, ALL_OF_A)
    assert metrics["replay/used"] == 1 and metrics["replay/helped_fraction"] == 0
    assert metrics["replay/weight"] == pytest.approx(0.5)
    one = rows["replay-2-0_0_0"]
    assert len(rows) == 16 and sum(bool(one["tag"].get("is_padding")) for one in rows.values()) == 7
    assert one["responses"].tolist() == own["responses"].tolist() and one["prompts"].tolist() == own["prompts"].tolist()
    # The group means were 1/4 and 1/8, their median 3/16.
    advantage = (1 - 3 / 16) * (1.0 if loss else 0.5)
    assert one["advantages"].tolist() == pytest.approx([advantage, advantage, 0, advantage])
    assert one["old_log_probs"].tolist() == own["old_log_probs"].tolist()
    if loss:
        assert one["arpo_loss_row_weight"].tolist() == [0.5] * 4
    # The others are as without it.
    for key, past in before.items():
        assert rows[key.replace("1_", "2_", 1)]["advantages"].tolist() == pytest.approx(past["advantages"].tolist())


def test_a_teachers_trace_is_compared_with_the_others_and_has_the_probability_as_its_ratio(transfer_queue, tmp_path):
    run = Run(transfer_queue, tmp_path, "arpo.replay=own_replay_sources.Taught", *LINEAR)
    rows, metrics = run.step(1, {("b", 0): 1.0})
    assert metrics["replay/used"] == 1
    one = rows["a1_3_0"]
    assert one["advantages"].tolist() == [1.0, 0.0, 1.0]
    assert one["old_log_probs"].tolist() == one["rollout_log_probs"].tolist() == [0.0] * 3
    for number in range(3):
        assert rows[f"a1_{number}_0"]["advantages"].tolist() == [0.0] * len(rows[f"a1_{number}_0"]["responses"])
    assert rows["b1_0_0"]["advantages"][0] == pytest.approx(1.5, abs=1e-4)


def test_a_row_in_no_groups_statistics_is_left_in_the_loss_where_silent_turns_are_not(transfer_queue, tmp_path):
    terms = "+arpo.advantage_kwargs={terms:[{unit:node,baseline:parent}],value:child_mean,silent_turns:mask}"
    taught = ("arpo.replay=own_replay_sources.Taught", "arpo.advantage=term_sum", terms)
    rows, metrics = Run(transfer_queue, tmp_path, *taught).step(1, {("b", 0): 1.0})
    assert 0 < metrics["arpo/trained_fraction"] < 1
    one = rows["a1_3_0"]
    assert one["response_mask"].tolist() == one["loss_mask"].tolist() == [1, 0, 1]
    assert one["advantages"].tolist() == [1.0, 0.0, 1.0]
    # Silent is the second turn of a leaf that has not forked.
    assert rows["b1_1_0"]["response_mask"].tolist() == [1, 0, 0]
    assert rows["a1_0_0"]["response_mask"].tolist() == [1, 1, 0, 1]


def test_what_the_trees_say_of_a_step_is_of_its_own_leaves(transfer_queue, tmp_path):
    with_replay = Run(transfer_queue, tmp_path, "arpo.replay=own_replay_sources.All")
    with_replay.step(1, {("a", 0): 1.0})
    seen = [metrics for _, metrics in (with_replay.step(2, {("b", 0): 1.0}), with_replay.step(3, {("b", 0): 1.0}))]
    nothing = Run(transfer_queue, tmp_path, *OWN)
    _, without = nothing.step(2, {("b", 0): 1.0})
    assert seen[0]["replay/used"] == 3 and without["replay/used"] == 0
    names = [name for name in without if name.startswith(("tree/", "arpo/", "reward/"))]
    assert len(names) > 5
    for name in names:
        if not name.startswith("arpo/actor_entropy"):
            assert seen[0][name] == seen[1][name] == without[name], name


def test_two_runs_share_what_they_grow(transfer_queue, tmp_path):
    def peer(name: str) -> Run:
        shared = settings(f"directory={tmp_path / 'shared'}", f"name={name}", "success=1.0")
        return Run(transfer_queue, tmp_path, "arpo.replay=peers", *shared, *TREE)

    one, other = peer("one"), peer("other")
    _, metrics = other.step(5, ALL_OF_A)
    assert metrics["replay/kept"] == 8
    rows, metrics = one.step(1, {})
    assert metrics["replay/used"] == 4 and metrics["replay/helped_fraction"] == 1
    foreign = [one for one in rows.values() if one["tag"].get("is_replay")]
    assert {one["extra_fields"]["replayed"]["origin"] for one in foreign} == {"other"}
    assert {len(set(one["responses"].tolist()) & set(range(500, 600))) > 0 for one in foreign} == {True}
    # What is foreign is not shared again.
    _, metrics = one.step(2, {})
    assert metrics["replay/kept"] == 4


def test_what_is_excluded_or_has_no_reward_or_is_padding_is_never_kept(transfer_queue, tmp_path):
    run = Run(transfer_queue, tmp_path, *OWN, *settings("trigger=always"), *TREE)
    MASKS[("b", 2)] = [0]
    try:
        _, metrics = run.step(1, {("a", 0): math.nan, ("a", 1): math.inf, ("b", 2): 1.0, ("b", 3): 1.0})
    finally:
        del MASKS[("b", 2)]
    assert metrics["replay/kept"] == 1
    rows, metrics = run.step(2, {("a", 0): math.nan})
    assert metrics["replay/used"] == 1
    assert all(bool(one["advantages"].isfinite().all()) for one in rows.values())


def test_a_row_that_has_become_too_long_or_is_of_another_prompt_is_not_used(transfer_queue, tmp_path):
    run = Run(transfer_queue, tmp_path, "arpo.replay=own_replay_sources.Wrong", *TREE)
    _, metrics = run.step(1, {})
    assert (metrics["replay/used"], metrics["replay/refused"]) == (0, 2)


@pytest.mark.parametrize(("wrong", "words"), [
    ("twice", "is replaced already"), ("no_group", "no group to estimate it in"), ("not_finite", "advantage is nan"),
    ("not_stored", "the row has none"), ("weight", "weight is -1"),
])  # fmt: skip
def test_a_source_that_chooses_what_can_not_be_done_ends_the_run_with_its_mistake(
    transfer_queue, tmp_path, wrong, words
):
    run = Run(transfer_queue, tmp_path, "arpo.replay=own_replay_sources.Mistaken", *settings(f"mistake={wrong}"), *TREE)
    with pytest.raises(ValueError, match=words):
        run.step(1, {})
    transfer_queue.kv_clear(partition_id="train", keys=[f"{uid}1_{session}_0" for uid, session in SEGMENTS])


def test_a_resumed_run_chooses_the_rows_that_an_uninterrupted_one_does(transfer_queue, tmp_path):
    many = {(uid, session): 1.0 for uid in "ab" for session in range(4)}

    def chosen(rows: dict) -> list:
        replayed = [(key, one) for key, one in rows.items() if one["tag"].get("is_replay")]
        return sorted((key, one["responses"].tolist()) for key, one in replayed)

    whole = Run(transfer_queue, tmp_path, *OWN, *TREE)
    seen = []
    for step in range(1, 7):
        if step == 4:
            whole.replay.save(tmp_path / "global_step_3")
        seen.append(chosen(whole.step(step, many if step < 3 else {})[0]))
    resumed = Run(transfer_queue, tmp_path, *OWN, *TREE)
    resumed.replay.load(tmp_path / "global_step_3")
    again = [chosen(resumed.step(step, {})[0]) for step in range(4, 7)]
    assert again == seen[3:] and all(len(one) == 2 for one in again)
    assert len({json.dumps(one) for one in again}) > 1


def test_a_step_that_has_not_ended_is_no_part_of_what_is_saved(transfer_queue, tmp_path):
    from arpo_verl.integration.training.replay_source import FILE
    from arpo_verl.replay.store.files import read_rows

    run = Run(transfer_queue, tmp_path, *OWN, *TREE)
    run.step(1, ALL_OF_A)
    run.replay.step_ends = lambda step: None
    run.step(2, {("a", 1): 1.0, ("b", 1): 1.0})
    run.replay.save(tmp_path)
    assert [one.step for one in read_rows(tmp_path / FILE, None).rows] == [1]


def test_stored_rows_that_no_longer_fit_are_left_out_when_a_run_goes_on(transfer_queue, tmp_path, caplog):
    run = Run(transfer_queue, tmp_path, *OWN, *TREE)
    run.replay._source.finish([row(ids=tuple(range(10))), row("u")], [], 1)
    run.replay.save(tmp_path)
    shorter = Run(transfer_queue, tmp_path, *OWN, *TREE, "data.max_response_length=8")
    shorter.replay.load(tmp_path)
    assert len(shorter.replay._source.state().rows) == 1
    assert "1 of 2 stored rows are left out: a response of 10 tokens; expected 1 to 8" in caplog.text


def test_verls_comparison_of_engines_is_of_the_steps_own_rows(transfer_queue, tmp_path):
    run = Run(transfer_queue, tmp_path, *OWN, *TREE)
    run.step(1, ALL_OF_A)
    _, metrics = run.step(2, {})
    largest = metrics["training/rollout_probs_diff_max"]
    # The largest is that of the first row; the replayed one is compared with nothing.
    assert largest == pytest.approx(np.exp(-1.0) - np.exp(-1.5), abs=1e-3)
