"""One policy loss a file: a function with the arguments of verl's registered ones, and with whatever else it names.

`arpo_verl/losses/<name>.py` has the function `<name>`. `arpo.loss=<name>` chooses it, and so does verl's own
`actor_rollout_ref.actor.policy_loss.loss_mode=arpo_<name>`; nothing else has to know of it.
`arpo.loss=my_package.module.my_loss` chooses one that lies elsewhere.

verl 0.9.1 calls a loss with `VERLS_ARGUMENTS`. One that needs more names it among its parameters, and gets

    entropy          entropy of each token under the policy that is updated, in nats, with gradient
    segment_ids      two rows of one prompt share token t if and only if their ids are equal at t; -1 is padding
    turn_ids         turn of each sampled token, counted from 1 in its row; 0 where nothing was sampled
    is_excluded      rows that train nothing, of shape (batch,)
    is_replay        true in rows that the step has not sampled (`arpo.replay`)
    row_weight       weight of the row's policy loss, the same at each of its tokens; 1 but in such rows
    past_entropy     mean entropy of all sampled tokens of the steps before this one; NaN in the first. Shape ()
    mini_batch_sums  a function for what has to be known of a whole mini-batch, see `MiniBatchSums`

and whatever tensors the advantage (`arpo.advantage`) has returned by that name. Entropies, ids and those tensors have
the shape (batch, response_length), of the micro-batch. Any other parameter is a setting, from `arpo.loss_kwargs`. A
loss that needs one thing or another by its settings says so with `needs_by_settings`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import torch

VERLS_ARGUMENTS = (
    "old_log_prob",
    "log_prob",
    "advantages",
    "response_mask",
    "loss_agg_mode",
    "config",
    "rollout_is_weights",
)
"""What verl 0.9.1 calls a policy loss with (`workers/utils/losses.py`, `ppo_loss`), always by name."""
ENTROPY, PAST_ENTROPY, MINI_BATCH_SUMS = "entropy", "past_entropy", "mini_batch_sums"
ROW_WEIGHT, IS_REPLAY = "row_weight", "is_replay"
TREE_COLUMNS = ("segment_ids", "turn_ids", "is_excluded")
EXTRAS = (ENTROPY, PAST_ENTROPY, MINI_BATCH_SUMS, *TREE_COLUMNS, ROW_WEIGHT, IS_REPLAY)
"""What a loss may name beside verl's arguments, whatever the advantage."""

LOSS_MASK = "loss_mask"
"""Name of a tensor of the advantage that no loss gets: 0 for tokens to leave out of the loss and its denominators."""


class MiniBatchSums(Protocol):
    """Sums over all micro-batches and ranks of a mini-batch.

    The gradient of a micro-batch is taken before the next one is computed, so that a mini-batch's own sums are known
    only when it is over: what a loss gets are those of the one before.
    """

    def __call__(self, own: torch.Tensor) -> torch.Tensor | None:
        """Add a micro-batch's sums to its mini-batch's, and return the sums of the mini-batch before.

        Every micro-batch of every rank has to make exactly one call, since ranks wait for each other in it.

        Args:
            own: of shape (n,), with one n for all calls, without gradient.

        Returns:
            Shape (n,), in double precision; None in the first mini-batch.
        """


@dataclass(frozen=True)
class Needs:
    """The names among a loss's parameters that are filled in, of `EXTRAS` and of the advantage's tensors."""

    required: tuple[str, ...] = ()
    """What it can't do without."""
    optional: tuple[str, ...] = ()
    """What it takes where it is there."""


Loss = TypeVar("Loss", bound=Callable[..., Any])


def needs_by_settings(needs: Callable[[Mapping[str, Any]], Needs]) -> Callable[[Loss], Loss]:
    """Return a decorator for a loss whose needs depend on its settings.

    Args:
        needs: returns what the loss needs with settings, and raises a ValueError where it does not take them. It is
            called before Ray starts.
    """

    def decorate(loss: Loss) -> Loss:
        loss.__dict__["needs"] = needs
        return loss

    return decorate
