"""What the trainer decides without verl's queue: how much of a step is lost, the manager, what it watches, its ends."""

import contextlib
from types import SimpleNamespace

import numpy as np
import pytest
from omegaconf import OmegaConf
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from arpo_verl.integration.row_key import prompt_of, session_of
from arpo_verl.integration.settings import RunParts
from arpo_verl.integration.training.lost_leaves import (
    REWARD_FAILURE,
    TooManyReplaced,
    checked_signal_metrics,
    lost_fraction,
    require_enough_leaves,
    reward_failures,
)
from arpo_verl.integration.training.process_watch import NothingHappens, ProcessDied
from arpo_verl.integration.training.replay_buffer import LeafCount
from arpo_verl.integration.training.rule_memory import RuleMemory
from arpo_verl.integration.training.save_on_stop import SaveOnStop
from arpo_verl.integration.training.tool_guard import RunStopped
from arpo_verl.integration.training.trainer import MANAGER, ArpoTrainer, StopRequested, choose_manager
from arpo_verl.rollout.leaf_record import LeafRecord
from arpo_verl.rollout.leaf_signals import SIGNALS, LeafSignals


def tree(size: int, asked: int) -> list[LeafRecord]:
    return [
        LeafRecord(asked, number, None, "0", None, False, "completed", False, False, [], [], None, [], None, 0, 0)
        for number in range(size)
    ]


def test_nothing_is_lost_of_whole_trees_also_where_a_prompt_asked_for_another_size():
    assert lost_fraction({"a": tree(4, asked=4), "b": tree(6, asked=6)}, prompts=2, leaves=4, failures=[]) == 0


@pytest.mark.parametrize(
    ("trees", "prompts", "failures", "lost"),
    [
        (1, 2, 0, 4 / 8), (3, 4, 0, 4 / 16), (4, 4, 3, 3 / 16), (3, 4, 1, 5 / 16), (4, 4, 16, 1), (1, 1, 0, 0),
        (63, 64, 0, 1 / 64), (60, 64, 8, 24 / 256),
    ],
)  # fmt: skip
def test_prompts_that_have_failed_and_leaves_without_a_reward_are_lost(trees, prompts, failures, lost):
    grown = {str(number): tree(4, asked=4) for number in range(trees)}
    assert lost_fraction(grown, prompts, leaves=4, failures=["late"] * failures) == pytest.approx(lost)


def test_an_incomplete_tree_is_an_error_that_names_the_prompt():
    with pytest.raises(RuntimeError, match=r"leaves missing in \['b: 3 of 4'\]"):
        lost_fraction({"a": tree(4, asked=4), "b": tree(3, asked=4)}, prompts=2, leaves=4, failures=[])


@pytest.mark.parametrize(("at_most", "is_stopped"), [(0.0, True), (0.24, True), (0.25, False), (1.0, False)])
def test_a_run_stops_above_the_share_that_may_be_lost(at_most, is_stopped):
    if not is_stopped:
        require_enough_leaves(0.25, at_most, ["KeyError: 'score'"])
        return
    with pytest.raises(RunStopped, match=r"25% of the step's leaves are lost.*first failure of a reward: KeyError"):
        require_enough_leaves(0.25, at_most, ["KeyError: 'score'"])


def test_a_step_without_losses_never_stops_a_run():
    require_enough_leaves(0.0, 0.0, [])


def test_the_reasons_of_failed_rewards_are_found():
    fields = {"a": {"reward_extra_info": {"acc": 1}}, "b": {"reward_extra_info": {REWARD_FAILURE: "late"}}, "c": {}}
    assert reward_failures(fields) == ["late"]


def test_the_ids_of_prompt_and_session_are_read_from_a_rows_key():
    assert (prompt_of("a_b_3_0"), session_of("a_b_3_0")) == ("a_b", "a_b_3")


@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
def test_verls_trainers_are_ours(mode):
    assert issubclass(get_trainer_cls(mode), ArpoTrainer)


def test_rewards_by_turn_are_left_out_of_verls_validation_metrics(monkeypatch):
    given = (
        ["gsm8k", "gsm8k"],
        ["a", "a"],
        {"reward": [1.0, 0.0], "turn_rewards": [[0.5, 1.0], [0.0]], "info_gains": [[0.1], []]},
    )
    trainer = object.__new__(get_trainer_cls("sync"))
    trainer.config = OmegaConf.create({"trainer": {"val_before_train": False}})
    metrics = trainer._val_metrics_update(*given, [np.array([2, 2])])
    assert [value for name, value in metrics.items() if name.endswith("reward/mean@2")] == [0.5]
    # Fails when verl takes lists as well: then it need not be left out.
    with pytest.raises(ValueError, match="inhomogeneous"):
        PPOTrainer._val_metrics_update(trainer, *given, [np.array([2, 2])])


def manager_config(agent: dict, estimator: str = "arpo"):
    config = OmegaConf.create(
        {"algorithm": {"adv_estimator": estimator}, "actor_rollout_ref": {"rollout": {"agent": agent}}}
    )
    OmegaConf.set_struct(config, True)
    return config


@pytest.mark.parametrize("agent", [{}, {"agent_loop_manager_class": None}, {"agent_loop_manager_class": MANAGER}])
@pytest.mark.parametrize("estimator", ["arpo", "grpo"])
def test_our_manager_is_chosen(agent, estimator):
    config = manager_config(agent, estimator)
    choose_manager(config)
    assert config.actor_rollout_ref.rollout.agent.agent_loop_manager_class == MANAGER


def test_another_manager_is_refused_by_trees_and_kept_by_others():
    agent = {"agent_loop_manager_class": "my.Manager"}
    with pytest.raises(ValueError, match=r"agent_loop_manager_class='my\.Manager'; expected it unset"):
        choose_manager(manager_config(agent))
    config = manager_config(agent, "grpo")
    choose_manager(config)
    assert config.actor_rollout_ref.rollout.agent.agent_loop_manager_class == "my.Manager"


def test_the_dead_are_named_with_their_causes():
    death = ProcessDied({"TransferQueue's controller": "killed", "reward worker 1": "out of memory"})
    assert str(death).startswith("TransferQueue's controller, reward worker 1 died while the run needed it")
    assert "reward worker 1: out of memory" in str(death)
    assert death.is_among("TransferQueue's") and not death.is_among("agent")


class Group:
    """Something with actors, which are names here."""

    def __init__(self, *names: str, balancer: str | None = None) -> None:
        self.workers = self.agent_loop_workers = self.reward_loop_workers = self.server_handles = list(names)
        self.global_load_balancer = balancer


def whole_trainer(mode: str, **attributes):
    """A trainer of verl's mode with groups of actors, without Ray."""
    trainer = object.__new__(get_trainer_cls(mode))
    trainer.config, trainer.use_critic, trainer.global_steps = OmegaConf.create({}), False, 3
    trainer.actor_rollout_wg = Group("actor")
    trainer.reward_loop_manager = Group("reward")
    trainer.llm_server_manager = Group("server", balancer="balancer")
    trainer._leaf_count = LeafCount(4, 0.25)
    trainer._state, trainer._rule_memory = SaveOnStop(trainer), RuleMemory(None)
    trainer._parts, trainer._loss = RunParts(True, True, True), None
    for name, value in attributes.items():
        setattr(trainer, name, value)
    return trainer


@pytest.mark.parametrize(
    ("mode", "attributes", "more"),
    [
        ("sync", {}, []),
        ("colocate_async", {"use_critic": True, "critic_wg": Group("actor")}, []),
        ("sync", {"use_critic": True, "critic_wg": Group("critic")}, ["training worker 1"]),
        (
            "separate_async",
            {"standalone_server_manager": Group("own 0", "own 1", balancer="own balancer")},
            ["inference server 1", "inference server 2", "load balancer 1"],
        ),
        (
            "separate_async",
            {"standalone_server_manager": Group("own", balancer="own balancer"), "llm_server_manager": Group()},
            [],
        ),
    ],
)
def test_all_that_a_step_waits_for_is_watched_in_every_mode(monkeypatch, mode, attributes, more):
    monkeypatch.setattr("arpo_verl.integration.training.trainer.queue_actors", lambda: {"queue": "queue"})
    watch = whole_trainer(mode, **attributes)._watch(Group("agent 0", "agent 1"))
    stock = ["agent loop worker 0", "agent loop worker 1", "reward worker 0", "inference server 0", "load balancer 0"]
    assert sorted(watch._actors) == sorted([*stock, "training worker 0", "queue", *more])


def test_progress_is_a_leaf_that_comes_a_part_of_a_step_that_ends_or_the_next_step():
    trainer = whole_trainer("sync")
    said = [trainer._progress()]  # before verl has measured anything
    trainer.timing_raw = {}
    assert trainer._progress() == said[0]
    trainer._leaf_count.look({"train": ["a_0_0"], "val": ["b_0_0"]})
    said.append(trainer._progress())
    trainer.timing_raw["gen"] = 1.25
    said.append(trainer._progress())
    trainer.timing_raw["gen"] += 1  # the second mini-batch of a step
    said.append(trainer._progress())
    trainer.global_steps += 1
    said.append(trainer._progress())
    assert len(set(said)) == len(said)
    assert said[2].endswith("2 leaves have come since the run began; parts of the step that have ended, with their "
                            "seconds: gen 1.2")  # fmt: skip


@pytest.mark.parametrize(("requested", "is_updating", "is_stopped"), [
    (None, False, False), ("SIGTERM", False, True), ("SIGTERM", True, False),
])  # fmt: skip
def test_a_request_is_followed_once_no_update_is_under_way(monkeypatch, requested, is_updating, is_stopped):
    monkeypatch.setattr("arpo_verl.integration.training.trainer.requested", lambda: requested)
    trainer = whole_trainer("sync")
    if is_updating:
        trainer._state.update_begins()
    stop = trainer._stop_request()
    assert (stop is not None) == is_stopped
    assert not is_stopped or str(stop) == "the run was asked to end, by SIGTERM"


@pytest.mark.parametrize(
    ("stop", "are_leaves_bad", "is_queue_dead"),
    [
        (RunStopped("the tools have failed"), True, False),
        (StopRequested("asked"), False, False),
        (NothingHappens("nothing"), False, False),
        (TooManyReplaced("failed"), False, False),
        (ProcessDied({"reward worker 0": "killed"}), False, False),
        (ProcessDied({"TransferQueue's controller": "killed"}), False, True),
    ],
)
def test_an_end_keeps_leaves_that_are_good_and_does_without_a_dead_queue(
    monkeypatch, stop, are_leaves_bad, is_queue_dead
):
    monkeypatch.setattr("arpo_verl.integration.training.trainer.accept_requests", lambda: None)
    saves = []
    trainer = whole_trainer("sync", _is_ours=True)
    trainer._stop = lambda *words: saves.append(words) or "Saved."
    trainer._watch = lambda manager: SimpleNamespace(watching=lambda: raising(stop))
    trainer._rule_memory = None
    with pytest.raises(RunStopped) as raised:
        trainer.fit(SimpleNamespace())
    assert str(raised.value) == f"{stop}. Saved."
    assert saves == [(are_leaves_bad, is_queue_dead)]


@contextlib.contextmanager
def raising(error: Exception):
    raise error
    yield


def leaf_with_turns(values: list[float | None] | None, failure: str | None = None) -> dict:
    """Extra fields of a leaf with rewards of its turns, or why it has none."""
    return {SIGNALS: LeafSignals(turn_rewards=values, turn_reward_failure=failure).as_dict(), "arpo": {"segments": []}}


def test_a_run_whose_function_of_turn_rewards_fails_too_often_stops():
    leaves = [leaf_with_turns([1.0]), leaf_with_turns(None, "KeyError: 'x'")]
    assert checked_signal_metrics(leaves, at_most=0.5)["turn_reward/failed_fraction"] == 0.5
    with pytest.raises(RunStopped, match="50% of the step's leaves have no rewards of their turns") as stopped:
        checked_signal_metrics(leaves, at_most=0.25)
    assert "max_failed_fraction=0.25" in str(stopped.value)
    assert checked_signal_metrics([{}, {}], at_most=0.0) == {}
