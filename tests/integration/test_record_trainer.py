"""What writes the record of a step: it keeps alarms, reads rows as the queue has them, and ends no training."""

import logging
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from verl.trainer.ppo.v1.trainer_base import PPOTrainer

from arpo_verl.integration.queue import KVBatchMeta
from arpo_verl.integration.settings import RunParts
from arpo_verl.integration.training import record_rows
from arpo_verl.integration.training.record_rows import REWARD_TIMES, read_rows
from arpo_verl.integration.training.record_trainer import (
    ALARM_CHARACTERS,
    MOST_ALARMS,
    Alarms,
    RecordTrainer,
    write_record,
)
from arpo_verl.record import RecordedStep, read_step
from arpo_verl.record.building import RecordBuilder
from arpo_verl.record.token_texts import TokenTexts
from arpo_verl.rollout.leaf_record import LeafRecord, SegmentRecord


def leaf_record(number: int, parent: int | None, ids: list[int]) -> dict:
    segments = [SegmentRecord(one, 1, True) for one in ids]
    return LeafRecord(
        2, number, parent, str(number), parent, False, "completed", False, False, segments, [], None, [], None, 0, 0
    ).as_dict()


def columns() -> dict[str, dict]:
    """Rows as the queue has them, by key: two leaves that share their first token, and one of another agent loop."""
    rows = {"p_0_0": ([0, 2], 1.0), "p_1_0": ([0, 1], 0.0), "q_0_0": ([0, 1], 0.5)}
    return {
        key: {
            "prompts": torch.tensor([7]),
            "responses": torch.tensor([3, 4]),
            "response_mask": torch.tensor([1, 1]),
            "rm_scores": torch.tensor([0.0, reward]),
            "advantages": torch.tensor([0.5, 0.5]),
            "old_log_probs": torch.tensor([-1.0, -2.0]),
            "extra_fields": (
                {"arpo": leaf_record(int(key[2]), None if key[2] == "0" else 0, ids), REWARD_TIMES: (2.0, 3.0)}
                if key.startswith("p")
                else {}
            ),
            "reward_model": {"ground_truth": "5"},
            "data_source": "d",
        }
        for key, (ids, reward) in rows.items()
    }


@pytest.fixture
def batch(monkeypatch) -> KVBatchMeta:
    data = columns()

    def read(keys, partition_id, names):
        return {name: [data[key][name] for key in keys] for name in names if name in data[keys[0]]}

    monkeypatch.setattr(record_rows, "read_columns", read)
    keys = ["p_1_0", "q_0_0", "p_0_0", "padding"]
    return KVBatchMeta(partition_id="train", keys=keys, tags=[{}, {}, {}, {"is_padding": True}])


def test_rows_are_read_in_order_without_padding(batch):
    rows = read_rows(batch, grows_trees=True, replayed_steps={"p_1_0": 4})
    assert [row.key for row in rows] == ["p_0_0", "p_1_0", "q_0_0"]
    first, second, other = rows
    assert (first.tree, first.prompt, first.number, first.reward) == ("p", "p", 0, 1.0)
    assert (first.truth, first.source, first.reward_times) == ("5", "d", (2.0, 3.0))
    assert first.log_probs.tolist() == [-1.0, -2.0] and first.entropies is None
    assert second.replayed_step == 4 and second.history is None and second.record is not None
    assert other.record is None and [segment.tokens for segment in other.segments()] == [2]
    assert [row.tree for row in read_rows(batch, grows_trees=False, replayed_steps={})] == ["p_0", "p_1", "q_0"]


class Letters:
    """A tokenizer whose tokens are letters."""

    all_special_ids = (4,)

    def decode(self, token_ids, **options) -> str:
        return "".join(chr(ord("a") + token) for token in token_ids)


class Trainer(RecordTrainer):
    """The trainer without what verl's own constructor starts."""

    def on_sample_end(self) -> None: ...

    def on_step_end(self) -> None: ...

    def __init__(self, folder) -> None:
        self.config = OmegaConf.create({"trainer": {"rollout_data_dir": str(folder)}})
        self._parts = RunParts(grows_trees=True, uses_our_advantage=True, uses_tag_agent=True)
        self.tokenizer, self.global_steps = Letters(), 3
        self._dump_executor, self._dump_futures = ThreadPoolExecutor(1), []

    def begin(self) -> None:
        self._alarms, self._began = Alarms(), 1.0
        logging.getLogger("arpo_verl").addHandler(self._alarms)


def test_a_step_is_recorded_with_its_alarms_and_its_times(batch, tmp_path):
    trainer = Trainer(tmp_path)
    trainer.begin()
    try:
        logging.getLogger("arpo_verl.anything").warning("slow: %d", 5)
        trainer._log_rollout_data(batch, {"gen": 1.23456}, str(tmp_path))
    finally:
        logging.getLogger("arpo_verl").removeHandler(trainer._alarms)
    trainer._shutdown_dump_executor()
    step = read_step(tmp_path / "3.jsonl")
    assert (step.step, step.began, step.seconds, step.alarms) == (3, 1.0, {"gen": 1.235}, ["WARNING: slow: 5"])
    tree, other = step.prompts
    assert [segment.text for segment in tree.segments] == ["d", "e", "e"]  # the first is shared
    assert [list(leaf.segments) for leaf in tree.leaves] == [[0, 1], [0, 2]]
    assert [leaf.reward_times for leaf in tree.leaves] == [(1.0, 2.0)] * 2
    assert tree.segments[1].special == ((0, 1),) and other.leaves[0].reward == 0.5


def test_a_record_that_can_not_be_read_or_written_ends_nothing(batch, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(record_rows, "read_columns", lambda *_: {}["nothing"])
    Trainer(tmp_path)._log_rollout_data(batch, {}, str(tmp_path))
    assert "the rollouts of step 3 can't be recorded" in caplog.text
    (tmp_path / "file").write_text("")
    builder = RecordBuilder(TokenTexts(lambda ids: "", ()))
    write_record(tmp_path / "file" / "3.jsonl", RecordedStep(3), [], builder)
    assert "the record of step 3 could not be written" in caplog.text


def test_alarms_are_few_short_and_taken_once():
    alarms = Alarms()
    log = logging.Logger("alone")
    log.addHandler(alarms)
    log.info("not an alarm")
    log.error("x" * 5000)
    for _ in range(2 * MOST_ALARMS):
        log.warning("again")
    taken = alarms.taken()
    assert len(taken) == MOST_ALARMS and len(taken[0]) == ALARM_CHARACTERS and taken[1] == "WARNING: again"
    assert alarms.taken() == []


def test_a_run_with_another_agent_loop_keeps_verls_rows(monkeypatch, tmp_path):
    trainer = Trainer(tmp_path)
    trainer._parts = SimpleNamespace(is_guarded=False)
    seen = []
    monkeypatch.setattr(PPOTrainer, "_log_rollout_data", lambda *args: seen.append(args[1:]))
    trainer._log_rollout_data("batch", {}, "folder")
    assert seen == [("batch", {}, "folder")]
