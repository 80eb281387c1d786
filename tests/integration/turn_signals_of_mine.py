"""A user's own parts for a test of a training: rewards of turns that fail in three ways, and an advantage of both."""

import fcntl
import os
import time
from pathlib import Path

import torch

from arpo_verl.advantages import TreeBatch
from arpo_verl.turn_rewards import LeafTurns


def short_turns(leaf: LeafTurns, limit: int = 40) -> list[float | None]:
    """1 for a turn whose calls have worked and which is short; the third, fifth and seventh leaf of a run fail."""
    assert leaf.step >= 1 and leaf.sample["data_source"] and leaf.ground_truth
    match count_of_call():
        case 3:
            time.sleep(100_000)
        case 5:
            raise RuntimeError("the fifth leaf fails")
        case 7:
            return []
    return [float(all(call.status == "ok" for call in turn.calls) and len(turn.text) < limit) for turn in leaf.turns]


def count_of_call() -> int:
    """Number the calls of all processes of a run, from 1."""
    with Path(os.environ["TURN_REWARD_CALLS"]).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(".")
        file.flush()
        return file.tell()


def of_signals(batch: TreeBatch) -> torch.Tensor:
    """The reward of each turn and what its result told, on the turn's own tokens; what is not known counts as 0."""
    turn = (batch.turn_ids - 1).clamp(min=0)
    total = torch.zeros_like(batch.token_level_rewards, dtype=torch.float64)
    for values in (batch.known_turn_rewards(), batch.known_info_gains()):
        assert ((values.abs() <= 1) | values.isnan()).all()
        known = torch.nn.functional.pad(values, (0, max(0, int(turn.max()) + 1 - values.shape[1])), value=float("nan"))
        total += known.nan_to_num(0.0).gather(1, turn)
    return total
