"""The project's reward, but that every seventh value is no number: for a test of what training does then."""

import itertools
from typing import Any

from arpo_verl.reward import compute_score as reliable_score

_calls = itertools.count(1)


def compute_score(*args: Any, **kwargs: Any) -> dict[str, Any]:
    parts = reliable_score(*args, **kwargs)
    return parts | {"score": float("nan")} if next(_calls) % 7 == 0 else parts
