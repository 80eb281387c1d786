"""A finished row as it is kept for later steps: its tokens, what each of them was, and its reward."""

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Tokens = NDArray[np.int32]
Numbers = NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class StoredRow:
    """One leaf without its tree. Arrays of the response have one value for each of its tokens; about 21 bytes a token.

    Two rows are the same only if they are the same object.
    """

    task: str
    """Identity of the dataset's row (`group.task_digest`)."""
    step: int
    """The step that sampled it; of a peer's row, the peer's."""
    reward: float
    """Sum of `scores`."""
    prompt_ids: Tokens
    response_ids: Tokens
    mask: NDArray[np.bool_]
    """True where the policy sampled the token, false for tool results."""
    segments: Tokens
    """Number of each token's segment, from 0, in order (`renumbered`)."""
    scores: Numbers
    """The reward of each token."""
    rollout_log_probs: Numbers | None = None
    """Log-probabilities that the inference server gave, in nats."""
    old_log_probs: Numbers | None = None
    """Log-probabilities under the weights at the beginning of the step that sampled it, in nats."""
    turn_rewards: tuple[float, ...] | None = None
    """NaN for a turn without one."""
    turns: int = 2
    """verl's `num_turns`."""
    origin: str = ""
    """Who sampled it: empty for this run."""

    @cached_property
    def digest(self) -> bytes:
        """Of the response's tokens, for comparing and sorting rows of one task."""
        return hashlib.blake2b(self.response_ids.astype(np.int32).tobytes(), digest_size=16).digest()


@dataclass(frozen=True)
class Limits:
    """How long a row may be that a step can train on, and how many tokens there are to choose from."""

    prompt_tokens: int
    response_tokens: int
    vocabulary: int | None = None
    """None where it is not known."""


def renumbered(segments: Tokens) -> Tokens:
    """Return the numbers of a row's runs of equal segment ids, counted from 0.

    >>> renumbered(np.array([7, 7, 9, 12, 12], dtype=np.int32)).tolist()
    [0, 0, 1, 2, 2]
    """
    begins = np.zeros(len(segments), dtype=np.int32)
    begins[1:] = segments[1:] != segments[:-1]
    return np.cumsum(begins, dtype=np.int32)


def problem_of(row: StoredRow, limits: Limits) -> str | None:
    """Return in words why a step can't train on a row; None where it can."""
    length = len(row.response_ids)
    if not 1 <= length <= limits.response_tokens:
        return f"a response of {length} tokens; expected 1 to {limits.response_tokens}"
    if not 1 <= len(row.prompt_ids) <= limits.prompt_tokens:
        return f"a prompt of {len(row.prompt_ids)} tokens; expected 1 to {limits.prompt_tokens}"
    for name in ("mask", "segments", "scores", "rollout_log_probs", "old_log_probs"):
        column = getattr(row, name)
        if column is not None and column.shape != (length,):
            return f"{name} of the shape {column.shape} for a response of {length} tokens"
        if column is not None and column.dtype.kind == "f" and not np.isfinite(column).all():
            return f"{name} with values that are not finite numbers"
    if not np.isfinite(row.reward):
        return f"the reward {row.reward}; expected a finite number"
    if any(math.isinf(one) for one in row.turn_rewards or ()):
        return "rewards of turns that are not finite"
    if not row.mask.any():
        return "no token that a policy has sampled"
    ids = np.concatenate([row.prompt_ids, row.response_ids])
    if ids.min() < 0 or (limits.vocabulary is not None and ids.max() >= limits.vocabulary):
        return f"token ids from {ids.min()} to {ids.max()}; expected 0 to {(limits.vocabulary or 0) - 1}"
    return None
