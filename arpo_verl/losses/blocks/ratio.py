"""Importance ratios of tokens, of turns and of sequences.

A turn's ratio is the geometric mean of its tokens' (AT²PO, arXiv 2601.04767; IPA, arXiv 2512.24873), a sequence's that
of all its sampled tokens (GSPO, arXiv 2507.18071). Each token of a turn has the turn's ratio as its value and its own
log-probability's gradient: δ = sg[s] · π / sg[π]. Where the advantage is constant in the turn, that is the gradient of
the geometric mean itself.
"""

from dataclasses import dataclass

import torch

BOUND = 20.0
"""The limit on the logarithm of a ratio, as in verl's losses."""


@dataclass(frozen=True)
class TokenSets:
    """Sets of tokens, such as turns, and means over them."""

    number: torch.Tensor
    """Set of each token, from 0. Shape (batch, response_length)."""
    sets: int
    """How many numbers there are; some may be of no token."""
    mask: torch.Tensor
    """Tokens that count. Shape (batch, response_length)."""

    @classmethod
    def of(cls, level: str, mask: torch.Tensor, turn_ids: torch.Tensor | None) -> "TokenSets":
        """Return the turns or the sequences of a batch.

        Args:
            level: `turn` or `sequence`.
            mask: tokens that count. Shape (batch, response_length).
            turn_ids: of each token, for turns; where they are None, runs of the mask are turns.
        """
        rows, width = mask.shape
        row = torch.arange(rows, device=mask.device).unsqueeze(1)
        if level == "sequence":
            return cls(row.expand(rows, width), rows, mask)
        turns = _runs(mask) if turn_ids is None else turn_ids.long()
        return cls(row * (width + 1) + turns, rows * (width + 1), mask)

    def sums(self, values: torch.Tensor) -> torch.Tensor:
        """Return the sum of each set over its tokens that count, in double precision. Shape (sets,)."""
        zeros = torch.zeros(self.sets, dtype=torch.float64, device=values.device)
        # In double precision, so that the order in which a device adds does not show.
        return zeros.index_add(0, self.number.reshape(-1), (values.double() * self.mask).reshape(-1))

    @property
    def sizes(self) -> torch.Tensor:
        """Tokens of each set that count. Shape (sets,)."""
        return self.sums(torch.ones_like(self.mask, dtype=torch.float64))

    def means(self, values: torch.Tensor) -> torch.Tensor:
        """Return each set's mean. Shape (sets,)."""
        return self.sums(values) / self.sizes.clamp(min=1)


@dataclass(frozen=True)
class Ratios:
    """Importance ratios, each of shape (batch, response_length)."""

    ratio: torch.Tensor
    """π / π_old at the level that is asked for, with gradient."""
    log_of_token: torch.Tensor
    """log π - log π_old of the token itself, within `BOUND`, without gradient."""
    sets: TokenSets | None = None
    """The turns or sequences; None for the ratio of tokens."""

    @classmethod
    def of(
        cls,
        log_prob: torch.Tensor,
        old_log_prob: torch.Tensor,
        mask: torch.Tensor,
        level: str,
        turn_ids: torch.Tensor | None = None,
    ) -> "Ratios":
        """Return the ratios of a micro-batch.

        Args:
            log_prob: log-probabilities now, with gradient. Shape (batch, response_length), as the others.
            old_log_prob: log-probabilities before the update.
            mask: tokens that count.
            level: `token`, `turn` or `sequence`.
            turn_ids: see `TokenSets.of`.
        """
        log_ratio = torch.clamp(log_prob - old_log_prob, -BOUND, BOUND)
        own = log_ratio.detach()
        if level == "token":
            return cls(torch.exp(log_ratio), own)
        sets = TokenSets.of(level, mask, turn_ids)
        mean = sets.means(own).to(own.dtype)[sets.number]
        return cls(torch.exp(log_prob - log_prob.detach() + mean), own, sets)


def _runs(mask: torch.Tensor) -> torch.Tensor:
    """Number the runs of tokens that count in each row, from 1; 0 elsewhere."""
    is_counted = mask != 0
    begins = is_counted.clone()
    begins[:, 1:] &= ~is_counted[:, :-1]
    return begins.long().cumsum(dim=1) * is_counted
