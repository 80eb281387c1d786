"""A reward function that fails in three ways, once each in a run: it never returns, it raises, it gives no score."""

import fcntl
import os
import time
from pathlib import Path
from typing import Any

from arpo_verl.reward import compute_score as stock_score


def compute_score(**kwargs: Any) -> dict[str, Any]:
    match count_of_call():
        case 3:
            time.sleep(100_000)
        case 5:
            raise RuntimeError("the fifth call fails")
        case 7:
            return {"acc": 1.0}
    return stock_score(**kwargs)


def count_of_call() -> int:
    """Number the calls of all processes of a run, from 1."""
    with Path(os.environ["REWARD_CALLS"]).open("a+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.write(".")
        file.flush()
        return file.tell()
