"""Tables of trees beside a training: what is logged, and that no logger ends a step or holds one up."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray
from verl.trainer.ppo.v1.trainer_base import PPOTrainer
from verl.utils.tracking import Tracking

from arpo_verl.integration.queue import KVBatchMeta
from arpo_verl.integration.settings import RunParts
from arpo_verl.integration.training import record_rows
from arpo_verl.integration.training.record_trainer import RecordTrainer
from arpo_verl.integration.training.tree_log import TreeLog
from arpo_verl.record import read_step
from arpo_verl.record.building import RecordBuilder, Row
from arpo_verl.record.token_texts import TokenTexts
from arpo_verl.tree_table.loggers import TAG


class Letters:
    """A tokenizer whose tokens are letters."""

    all_special_ids = ()

    def decode(self, token_ids, **options) -> str:
        return "".join(chr(ord("a") + token) for token in token_ids)


class Trainer(RecordTrainer):
    """The trainer without what verl's own constructor starts."""

    def on_sample_end(self) -> None: ...

    def on_step_end(self) -> None: ...

    def __init__(self, folder, trees: int, loggers: list[str], is_guarded: bool = True) -> None:
        config = {"trainer": {"rollout_data_dir": folder and str(folder)}, "arpo": {"log_trees": trees}}
        self.config = OmegaConf.create(config)
        self._parts = RunParts(grows_trees=is_guarded, uses_our_advantage=False, uses_tag_agent=False)
        self.tokenizer, self.global_steps = Letters(), 3
        self.logger = Tracking("project", "run", loggers)
        self._dump_executor, self._dump_futures = ThreadPoolExecutor(1), []


KEYS = {"p_0_0": 1.0, "p_1_0": 1.0, "q_0_0": 0.0, "q_1_0": 1.0}


@pytest.fixture
def batch(monkeypatch) -> KVBatchMeta:
    """Two prompts of two leaves, of which the second one's rewards differ."""

    def read(keys, partition_id, names):
        columns = {
            "prompts": lambda key: torch.tensor([ord(key[0]) - ord("a")]),
            "responses": lambda key: torch.tensor([3, 4 + int(key[2])]),
            "response_mask": lambda key: torch.tensor([1, 1]),
            "rm_scores": lambda key: torch.tensor([0.0, KEYS[key]]),
            "extra_fields": lambda key: {},
        }
        return {name: [column(key) for key in keys] for name, column in columns.items()}

    monkeypatch.setattr(record_rows, "read_columns", read)
    found = KVBatchMeta(partition_id="train", keys=list(KEYS), tags=[{}] * len(KEYS))
    monkeypatch.setattr(PPOTrainer, "step", lambda *args: found)
    monkeypatch.setattr(PPOTrainer, "on_step_begin", lambda self: None)
    return found


def tables_in(folder) -> dict[int, str]:
    events = EventAccumulator(str(folder))
    events.Reload()
    if f"{TAG}/text_summary" not in events.Tags()["tensors"]:
        return {}
    found = events.Tensors(f"{TAG}/text_summary")
    return {one.step: make_ndarray(one.tensor_proto).item().decode() for one in found}


def taken(log: TreeLog) -> None:
    """Wait until the thread has taken the table that waits for it."""
    while log._tables.qsize():
        time.sleep(0.01)


@pytest.mark.parametrize("has_record", [True, False])
def test_a_step_logs_a_table_of_its_trees_with_a_record_and_without(has_record, batch, tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path / "events"))
    folder = tmp_path / "rollouts" if has_record else None
    trainer = Trainer(folder, 1, ["tensorboard"])
    for step in (3, 4):
        trainer.global_steps = step
        trainer.on_step_begin()
        assert trainer.step({}, {}) is batch
        if has_record:  # as verl does
            trainer._log_rollout_data(batch, {}, str(folder))
        trainer._dump_futures[-1].result()
        taken(trainer._tree_log)  # a step takes longer
    trainer._shutdown_dump_executor()
    trainer.logger.finish()
    tables = tables_in(tmp_path / "events")
    assert sorted(tables) == [3, 4]
    lines = tables[3].splitlines()
    assert [line.split(" | ")[:3] for line in lines[2:]] == [["| 3", "q", "0"], ["| 3", "q", "1"]]
    assert [line.endswith(f"| {text} |") for line, text in zip(lines[2:], ("de", "df"), strict=True)] == [True, True]
    if has_record:
        assert [prompt.uid for prompt in read_step(folder / "3.jsonl").prompts] == ["p", "q"]


@pytest.mark.parametrize(("trees", "is_guarded"), [(0, True), (2, False)])
def test_a_run_that_asks_for_no_trees_or_grows_its_leaves_by_verls_own_loop_logs_none(
    trees, is_guarded, batch, tmp_path, monkeypatch
):
    monkeypatch.setenv("TENSORBOARD_DIR", str(tmp_path))
    trainer = Trainer(None, trees, ["tensorboard"], is_guarded)
    trainer.on_step_begin()
    trainer.step({}, {})
    trainer._shutdown_dump_executor()
    trainer.logger.finish()
    assert tables_in(tmp_path) == {}


def rows() -> list[Row]:
    return [Row(f"u_{one}_0", "u", "u", one, [1], [2, 3], np.ones(2), float(one)) for one in range(2)]


BUILDER = RecordBuilder(TokenTexts(Letters().decode, ()))


class Broken:
    """A logger whose service is away."""

    def add_text(self, *args) -> None:
        raise ConnectionError("the service is away")


class Adapter:
    def __init__(self, writer) -> None:
        self.writer = writer


def test_a_logger_that_fails_is_named_in_the_log_and_ends_nothing(caplog):
    log = TreeLog(2, {"tensorboard": Adapter(Broken())})
    log.log(7, rows(), BUILDER, 0.0)
    log.close()
    assert "the table of trees of step 7 can't be logged to tensorboard" in caplog.text
    assert "the service is away" in caplog.text


class Slow:
    """A logger that takes a table when it is let."""

    def __init__(self) -> None:
        self.steps: list[int] = []
        self.may_go = threading.Event()

    def add_text(self, tag, text, step) -> None:
        self.may_go.wait(20)
        self.steps.append(step)

    def flush(self) -> None: ...


def test_a_logger_that_hangs_holds_up_neither_steps_nor_the_end(caplog):
    slow = Slow()
    log = TreeLog(1, {"tensorboard": Adapter(slow)})
    began = time.monotonic()
    log.log(1, rows(), BUILDER, 0.0)
    taken(log)
    for step in (2, 3):
        log.log(step, rows(), BUILDER, 0.0)
    log.close(seconds=0.2)
    assert time.monotonic() - began < 10
    assert "the table of trees of step 3 is left out: tensorboard has not taken the one before it" in caplog.text
    assert "the last table of trees is not logged: a logger has taken more than 0.2 s" in caplog.text
    slow.may_go.set()
    log.close()
    assert slow.steps == [1, 2]
    log.close()  # a second time


def test_a_table_that_can_not_be_made_ends_nothing(caplog):
    log = TreeLog(1, {"tensorboard": Adapter(Slow())})
    log.log(5, [None], BUILDER, 0.0)
    log.close()
    assert "no table of trees of step 5 can be made" in caplog.text


def test_loggers_that_take_no_table_are_named(caplog):
    log = TreeLog(2, {"console": object()})
    log.log(1, rows(), BUILDER, 0.0)
    log.close()
    said = "arpo.log_trees=2: no table for console; expected tensorboard or wandb in trainer.logger; nothing is logged"
    assert said in caplog.text
    TreeLog(2, {"mlflow": object(), "tensorboard": Adapter(Slow())}).close()
    assert (
        "no table for mlflow; expected tensorboard or wandb in trainer.logger; tables go to tensorboard" in caplog.text
    )
    caplog.clear()
    TreeLog(2, {"console": object(), "tensorboard": Adapter(Slow())}).close()
    assert caplog.text == "", "nobody expects a table on a console"
