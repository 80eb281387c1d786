"""The batch as advantages see it: one leaf a row, and where in its tree it lies."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

from arpo_verl.advantages.tree.arguments import PADDING, require_equal_shapes

logger = logging.getLogger(__name__)

NAMED_ROWS = 8
"""How many rows a warning names."""
BY_TOKEN = ("token_level_rewards", "response_mask", "segment_ids", "entropies", "log_probs")
BY_ROW = ("prompt", "is_excluded", "parents", "fork_tokens")


@dataclass(frozen=True)
class TreeBatch:
    """The leaves of a batch, one a row, in any order; every prompt's leaves are a forest of trees, one for each root.

    What is None is not known. Nothing in it has a gradient, and nothing in it is to be changed in place.
    """

    token_level_rewards: torch.Tensor
    """A leaf's reward is the sum over its row. Shape (batch, response_length)."""
    response_mask: torch.Tensor
    """1 for sampled tokens, also those that verl rejects from the loss, 0 for tool results, padding and all tokens of
    excluded rows. As `token_level_rewards`."""
    prompt: torch.Tensor
    """Number of each row's prompt, from 0: rows with one number are compared with one another. Shape (batch,)."""
    is_excluded: torch.Tensor
    """Rows that count in no statistics and train nothing, padding rows among them. Truths of shape (batch,)."""
    segment_ids: torch.Tensor | None = None
    """Two rows of one prompt share token t if and only if their ids are equal at t; -1 is padding. Equal ids make one
    sampled turn or one tool result. Shape (batch, response_length)."""
    parents: torch.Tensor | None = None
    """Row of the leaf that each one forked from; -1 for one that was started from the prompt. Shape (batch,)."""
    fork_tokens: torch.Tensor | None = None
    """How many of its first tokens each row shares with its parent; 0 without one. Shape (batch,)."""
    turn_rewards: torch.Tensor | None = None
    """A reward for each turn, the first in column 0; NaN where a leaf has no such turn or no reward for it. Shape
    (batch, turns)."""
    info_gains: torch.Tensor | None = None
    """By how much each turn's tool result raised the policy's probability of the gold answer, the first turn in column
    0; NaN where a leaf has no such turn, the turn no result, or nothing is known. Shape (batch, turns)."""
    entropies: torch.Tensor | None = None
    """Entropy of the policy at each token, over the whole vocabulary, in nats, before the update. As `segment_ids`."""
    log_probs: torch.Tensor | None = None
    """Log-probability of each token under the policy before the update. As `segment_ids`."""

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ValueError: they do not fit each other.
        """
        by_token = {name: value for name in BY_TOKEN if (value := getattr(self, name)) is not None}
        require_equal_shapes(by_token, ("batch", "response_length"))
        rows = len(self.response_mask)
        for name in BY_ROW:
            value = getattr(self, name)
            if value is not None and value.shape != (rows,):
                raise ValueError(
                    f"{name} has the shape {tuple(value.shape)}; expected ({rows},): pass one for each row"
                )

    @cached_property
    def is_counted(self) -> torch.Tensor:
        """Rows that are not excluded and whose reward is finite, of which the log warns otherwise. Shape (batch,)."""
        is_finite = self._sums.isfinite()
        bad = (~self.is_excluded & ~is_finite).nonzero().flatten().tolist()
        if bad:
            rows = ", ".join(f"{row} ({float(self._sums[row])})" for row in bad[:NAMED_ROWS])
            logger.warning(
                "the rewards of %d of %d rows are not finite numbers: rows %s%s; they are left out of their groups and "
                "get the advantage 0: mend the reward function, or exclude them",
                *(len(bad), len(self._sums), rows, ", ..." if len(bad) > NAMED_ROWS else ""),
            )
        return ~self.is_excluded & is_finite

    @cached_property
    def rewards(self) -> torch.Tensor:
        """Each leaf's reward in double precision; 0 for a row that does not count. Shape (batch,)."""
        return self._sums.masked_fill(~self.is_counted, 0.0)

    @cached_property
    def _sums(self) -> torch.Tensor:
        # In single precision the mean of equal rewards is rounded, and over a standard deviation of almost 0 that would
        # be an advantage.
        given = self.token_level_rewards
        is_precise = given.dtype in (torch.float32, torch.float64)
        return given.sum(dim=-1).double() if is_precise else given.sum(dim=-1, dtype=torch.float64)

    @property
    def dtype(self) -> torch.dtype:
        """Type of an advantage: of 64 bits where the rewards are, else of 32."""
        return torch.promote_types(self.token_level_rewards.dtype, torch.float32)

    @cached_property
    def turn_ids(self) -> torch.Tensor:
        """Turn of each sampled token, counted from 1 in its row; 0 where the mask is 0. As `response_mask`."""
        return turn_ids(self.response_mask, self.segment_ids)

    def known_segment_ids(self) -> torch.Tensor:
        """Return `segment_ids`.

        Raises:
            ValueError: there are none.
        """
        if self.segment_ids is None:
            raise ValueError(
                "this advantage got segment_ids=None; expected the ids of every token: pass them, as "
                "arpo_verl.algorithms.segments makes them, or take mode='soft', which needs none"
            )
        return self.segment_ids

    def known_forks(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `parents` and `fork_tokens`.

        Raises:
            ValueError: there are none.
        """
        if self.parents is None or self.fork_tokens is None:
            raise ValueError(
                "this advantage got parents=None or fork_tokens=None; expected where each leaf forked: pass them, or "
                "choose terms that do not tell chains from forks"
            )
        return self.parents, self.fork_tokens

    def known_log_probs(self) -> torch.Tensor:
        """Return `log_probs`.

        Raises:
            ValueError: there are none.
        """
        if self.log_probs is None:
            raise ValueError("this advantage got log_probs=None; expected the policy's log-probabilities: pass them")
        return self.log_probs

    def known_turn_rewards(self) -> torch.Tensor:
        """Return `turn_rewards`.

        Raises:
            ValueError: there are none.
        """
        if self.turn_rewards is None:
            raise ValueError(
                "this advantage got turn_rewards=None; expected a reward for each turn: let the reward function return "
                "`turn_rewards`, a list of numbers, beside `score`"
            )
        return self.turn_rewards

    def known_info_gains(self) -> torch.Tensor:
        """Return `info_gains`.

        Raises:
            ValueError: there are none.
        """
        if self.info_gains is None:
            raise ValueError(
                "this advantage got info_gains=None; expected the gain of each turn: set arpo.information_gain=true"
            )
        return self.info_gains

    def known_entropies(self) -> torch.Tensor:
        """Return `entropies`.

        Raises:
            ValueError: there are none.
        """
        if self.entropies is None:
            raise ValueError(
                "this advantage got entropies=None; expected the entropy of every token: verl computes none with "
                "algorithm.rollout_correction.bypass_mode=True: turn that off, or choose another advantage"
            )
        return self.entropies

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """Return one value of each row at all of its sampled tokens. Shape (batch, response_length)."""
        spread: torch.Tensor = (values.to(self.dtype).unsqueeze(-1) * self.response_mask).to(self.dtype)
        return spread


def turn_ids(response_mask: torch.Tensor, segment_ids: torch.Tensor | None = None) -> torch.Tensor:
    """Return the turn of each sampled token: runs of tokens with mask 1 and, where they are known, one segment id.

    Args:
        response_mask: 1 for sampled tokens. Shape (batch, response_length).
        segment_ids: as in `TreeBatch`.

    Returns:
        Turns counted from 1 in each row; 0 where the mask is 0. Shape (batch, response_length).
    """
    is_sampled = response_mask != 0
    begins = is_sampled.clone()
    continues = is_sampled[:, :-1]
    if segment_ids is not None:
        continues = continues & (segment_ids[:, 1:] == segment_ids[:, :-1])
    begins[:, 1:] &= ~continues
    return begins.long().cumsum(dim=1) * is_sampled


def pad_rows(rows: Sequence[torch.Tensor], width: int, padding: float = PADDING) -> torch.Tensor:
    """Return rows of different lengths as one tensor of shape (batch, width)."""
    padded = torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=padding)
    return torch.nn.functional.pad(padded, (0, width - padded.shape[1]), value=padding)
