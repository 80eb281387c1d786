"""verl's replay buffers on a fake queue: failed prompts are replaced up to a limit, and only leaves are progress."""

import itertools

import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from verl.trainer.ppo.v1 import get_trainer_cls
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer, ReplayBufferAsync

from arpo_verl.integration.settings import RunParts
from arpo_verl.integration.training.process_watch import ProcessWatch
from arpo_verl.integration.training.replay_buffer import CountingBuffer, LeafCount, count_leaves
from arpo_verl.integration.training.tool_guard import RunStopped

PROMPTS = 4


class Queue:
    """Prompts and leaves as TransferQueue lists them; a prompt that is asked for ends at once."""

    def __init__(self, does_fail=lambda number: False) -> None:
        self.tags: dict[str, dict] = {}
        self.asked, self._does_fail = 0, does_fail

    def ask(self, prompts: int) -> None:
        for _ in range(prompts):
            uid = f"p{self.asked}"
            self.asked += 1
            tag = {"is_prompt": True, "global_steps": 1}
            if self._does_fail(self.asked):
                self.tags[uid] = tag | {"status": "failure", "failure": f"KeyError: {uid}"}
            else:
                self.tags |= {uid: tag | {"status": "finished"}, f"{uid}_0_0": {"status": "success"}}

    def kv_list(self, partition_id: str | None = None) -> dict[str, dict[str, dict]]:
        return {"train": dict(self.tags)}

    def kv_clear(self, partition_id: str, keys: list[str]) -> None:
        for key in keys:
            del self.tags[key]


def make_buffer(monkeypatch, queue: Queue, at_most: float, kind: type = ReplayBufferAsync, **settings):
    """A buffer of verl's on a queue, whose leaves are counted, and the count."""
    for name in ("kv_list", "kv_clear"):
        monkeypatch.setattr(f"transfer_queue.{name}", getattr(queue, name))
    made = kind(
        trainer_mode="sync" if kind is ReplayBuffer else "colocate_async",
        trainer_config=OmegaConf.create({}),
        max_off_policy_threshold=None,
        max_off_policy_strategy="drop",
        sampler_kwargs=OmegaConf.create({}),
        poll_interval=0.001,
        refill_fn=queue.ask,
        **settings,
    )
    count = LeafCount(PROMPTS, at_most)
    count_leaves(made, count)
    return made, count


KINDS = {
    "async": (ReplayBufferAsync, {}),
    "sync with replacements": (ReplayBuffer, {"sync_refill_failed_groups": True, "gen_batch_size": 1}),
}


@pytest.mark.parametrize(("kind", "settings"), KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize("at_most", [0, 0.25, 0.5, 0.9])
def test_a_run_in_which_every_rollout_fails_ends_and_says_why(monkeypatch, kind, settings, at_most):
    queue = Queue(lambda number: True)
    sampler, _ = make_buffer(monkeypatch, queue, at_most, kind, **settings)
    queue.ask(PROMPTS)
    with pytest.raises(RunStopped, match=r"prompts failed in a step that trains on 4.*causes: KeyError: p\d+\. Mend"):
        sampler.sample(1, "train", PROMPTS)
    # The last count within the limit is at_most * (failed + prompts); a look may find a whole batch more.
    assert queue.asked <= PROMPTS * at_most / (1 - at_most) + 2 * PROMPTS


@pytest.mark.parametrize(("kind", "settings"), KINDS.values(), ids=KINDS.keys())
@pytest.mark.parametrize(
    ("failing", "at_most", "is_stopped"),
    [
        ({1}, 0.25, False),  # 1 of 5
        ({1, 2}, 0.25, True),  # 2 of 6
        ({1, 5}, 0.25, True),  # the second is a replacement that fails too
        ({1, 2}, 0.34, False),
        ({1}, 0, True),
        (set(), 0, False),
        ({1, 2, 3, 4}, 0.5, False),  # 4 of 8
        ({1, 2, 3, 4, 5}, 0.5, True),
        (set(range(1, 101)), 1, False),
    ],
)  # fmt: skip
def test_replaced_prompts_are_bounded_by_their_share_of_those_asked(
    monkeypatch, kind, settings, failing, at_most, is_stopped
):
    queue = Queue(lambda number: number in failing)
    sampler, _ = make_buffer(monkeypatch, queue, at_most, kind, **settings)
    queue.ask(PROMPTS)
    if is_stopped:
        with pytest.raises(RunStopped):
            sampler.sample(1, "train", PROMPTS)
        return
    batch, metrics = sampler.sample(1, "train", PROMPTS)
    assert len(batch.keys) == PROMPTS
    assert metrics.get("training/rollout_failure/evicted_samples", 0) == len(failing)


def test_failures_are_counted_anew_in_each_step(monkeypatch):
    queue = Queue(lambda number: number % 5 == 1)
    sampler, count = make_buffer(monkeypatch, queue, 0.25)
    for step in range(1, 6):
        count.step_begins()
        queue.ask(PROMPTS)
        sampler.sample(step, "train", PROMPTS)
    assert queue.asked > 20


def test_what_a_stop_leaves_in_the_queue_has_the_failed_prompts_still(monkeypatch):
    queue = Queue(lambda number: True)
    sampler, _ = make_buffer(monkeypatch, queue, 0)
    queue.ask(3)
    with pytest.raises(RunStopped):
        sampler.sample(1, "train", PROMPTS)
    assert sorted(queue.tags) == ["p0", "p1", "p2"]


def test_waiting_before_a_step_is_bounded_too(monkeypatch):
    """`separate_async` with `hybrid_rollout.enable_switch` waits there."""
    queue = Queue(lambda number: True)
    sampler, _ = make_buffer(monkeypatch, queue, 0.25)
    queue.ask(PROMPTS)
    with pytest.raises(RunStopped):
        sampler.wait_for_sampleable(1, "train", 1)


def test_a_run_that_may_lose_everything_ends_when_no_leaf_comes(monkeypatch):
    queue = Queue(lambda number: True)
    sampler, count = make_buffer(monkeypatch, queue, at_most=1)
    queue.ask(PROMPTS)
    watch = ProcessWatch({}, lambda: count.come, 0.3, look_seconds=0.02)
    with pytest.raises(RunStopped, match="nothing has happened"), watch.watching():
        sampler.sample(1, "train", PROMPTS)
    assert queue.asked > 2 * PROMPTS


@pytest.mark.parametrize("mode", ["sync", "colocate_async", "separate_async"])
def test_every_trainer_counts_in_the_buffer_that_verl_makes(mode):
    trainer = object.__new__(get_trainer_cls(mode))
    trainer.trainer_mode = mode
    with initialize_config_module("arpo_verl.config", version_base=None):
        trainer.config = compose("arpo_trainer", overrides=["data.train_batch_size=3", "arpo.max_failed_fraction=0.5"])
    trainer._parts = RunParts.of(trainer.config)
    buffer = trainer._build_replay_buffer()
    assert isinstance(buffer, CountingBuffer) and isinstance(buffer, ReplayBufferAsync) == (mode != "sync")
    assert (buffer.leaf_count._prompts, buffer.leaf_count._at_most) == (3, 0.5)
    assert buffer.leaf_count is trainer._leaf_count
    trainer._parts = RunParts(grows_trees=False, uses_our_advantage=False, uses_tag_agent=False)
    assert type(trainer._build_replay_buffer()) in (ReplayBuffer, ReplayBufferAsync)


def test_only_leaves_that_come_are_progress(monkeypatch):
    queue = Queue()
    sampler, count = make_buffer(monkeypatch, queue, 1)
    states = [
        ({"a": "pending", "b": "pending"}, [], 0),
        ({"a": "running", "b": "pending"}, [], 0),
        ({"a": "running", "b": "running"}, ["a_0_0"], 1),
        ({"a": "running", "b": "failure"}, ["a_0_0"], 1),
        ({"a": "running", "c": "pending"}, ["a_0_0"], 1),  # b was replaced
        ({"a": "running", "c": "running"}, ["a_0_0", "a_1_0", "c_0_0"], 3),
        ({"a": "running", "c": "failure"}, ["a_0_0", "a_1_0"], 3),  # its leaves are taken back
        ({"a": "finished"}, ["a_0_0", "a_1_0"], 3),
        ({}, [], 3),
        ({"d": "running"}, ["d_0_0"], 4),
    ]
    for prompts, leaves, come in states:
        queue.tags = {uid: {"is_prompt": True, "global_steps": 1, "status": status} for uid, status in prompts.items()}
        queue.tags |= {key: {"status": "success"} for key in leaves}
        sampler.get_sampleable_count(1, "train")
        assert count.come == come


def test_a_users_own_buffer_is_counted_and_a_foreign_one_left_alone(monkeypatch, caplog):
    class OwnBuffer(ReplayBufferAsync):
        pass

    queue = Queue(lambda number: True)
    sampler, _ = make_buffer(monkeypatch, queue, 0.25, OwnBuffer)
    assert isinstance(sampler, OwnBuffer)
    queue.ask(PROMPTS)
    with pytest.raises(RunStopped):
        sampler.sample(1, "train", PROMPTS)
    foreign = itertools.count()
    count_leaves(foreign, LeafCount(1, 0))
    assert "custom_sampler is count, no ReplayBuffer of verl's" in caplog.text
