"""The estimator under verl's signature (`trainer/ppo/ray_trainer.py`, `compute_advantage`).

verl hands an estimator rewards, mask and prompt of each row, and nothing about trees. The trainer lays the rest beside
it for the time of the call, with the advantage that the run has chosen.
"""

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf

from arpo_verl.advantages import TreeBatch
from arpo_verl.advantages.tree.example import example_batch
from arpo_verl.algorithms.arpo import compute_arpo_advantage
from arpo_verl.integration.settings import arpo_config
from arpo_verl.named_parts import ADVANTAGES, parameters_of, require_accepted

if TYPE_CHECKING:  # it loads the queue, which not every process that knows the estimator needs
    from arpo_verl.integration.training.tree_columns import TreeColumns

KWARGS = "arpo.advantage_kwargs"


@dataclass(frozen=True)
class ChosenAdvantage:
    """An advantage of ours, or the user's own, with its settings."""

    key: str
    """What the user has set, for messages."""
    function: Callable[[TreeBatch], Any]

    @classmethod
    def of(cls, config: DictConfig) -> "ChosenAdvantage":
        """Return the advantage that a configuration chooses.

        A setting is `arpo.advantage_kwargs`', or else that of the same name in verl's `algorithm` group.

        Raises:
            ValueError: it can't be found, or does not take its settings.
        """
        arpo = arpo_config(config)
        key = f"arpo.advantage={arpo.advantage}"
        function = ADVANTAGES.find(arpo.advantage, "arpo.advantage")
        parameters = parameters_of(function, key)
        batch = next(iter(parameters.values()), None)
        if batch is None or batch.kind in (inspect.Parameter.KEYWORD_ONLY, inspect.Parameter.VAR_KEYWORD):
            raise ValueError(f"{key} takes {list(parameters)}; expected a TreeBatch as its first argument: add it")
        named = {name: parameter for name, parameter in parameters.items() if parameter is not batch}
        require_accepted(arpo.advantage_kwargs, named, {batch.name}, KWARGS)
        settings = {**_verls(named, config.algorithm), **arpo.advantage_kwargs}
        missing = [
            name
            for name, parameter in named.items()
            if name not in settings
            and parameter.default is inspect.Parameter.empty
            and parameter.kind not in (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
        ]
        if missing:
            raise ValueError(f"{key} has the parameters {missing} without a value; expected them in {KWARGS}: add them")
        return cls(key, partial(function, **settings))

    def try_out(self, has_entropies: bool = True) -> tuple[str, ...]:
        """Compute the advantages of an example, so that what can't work is known before a rollout is paid for.

        Args:
            has_entropies: whether the run will know them.

        Returns:
            The names of the tensors for the loss.

        Raises:
            ValueError: the function fails on it, or returns something else than advantages.
        """
        try:
            _, for_loss = self.compute(example_batch(has_entropies))
        except Exception as error:
            # Whatever somebody else's function raises.
            raise ValueError(
                f"{self.key} fails on an example of two prompts, {type(error).__name__}: {error}; expected an "
                f"advantage for each token: mend it, or its settings in {KWARGS}"
            ) from error
        return tuple(for_loss)

    def compute(self, batch: TreeBatch) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return the advantages of a batch, 0 where nothing was sampled, and what is to reach the loss beside them.

        Raises:
            ValueError: the function has returned something else than what `arpo_verl.advantages.Advantage` says.
        """
        result = self.function(batch)
        advantages, columns = result if isinstance(result, tuple) and len(result) == 2 else (result, {})
        if not isinstance(columns, Mapping):
            raise ValueError(
                f"{self.key} returned a tuple with a {type(columns).__name__}; expected a tensor, or a tensor and a "
                f"dictionary of tensors: change it"
            )
        for name, tensor in {"advantages": advantages, **columns}.items():
            self._check(name, tensor, batch)
        is_sampled = batch.response_mask != 0
        return (
            advantages.detach().to(batch.dtype).masked_fill(~is_sampled, 0.0),
            {name: tensor.detach() for name, tensor in columns.items()},
        )

    def _check(self, name: str, tensor: object, batch: TreeBatch) -> None:
        shape = tuple(batch.response_mask.shape)
        if not isinstance(tensor, torch.Tensor) or tuple(tensor.shape) != shape:
            got = f"the shape {tuple(tensor.shape)}" if isinstance(tensor, torch.Tensor) else f"{tensor!r:.80}"
            raise ValueError(f"{self.key} returned {name} of {got}; expected a tensor of the shape {shape}: change it")
        bad = ((batch.response_mask != 0) & ~tensor.isfinite()).any(dim=1).nonzero().flatten().tolist()
        if bad:
            raise ValueError(
                f"{self.key} returned {name} that are not finite numbers in the rows {bad[:8]} of {shape[0]}; expected "
                f"finite ones wherever response_mask is 1: correct it"
            )


def _verls(parameters: Mapping[str, inspect.Parameter], algorithm: DictConfig) -> dict[str, Any]:
    """Return verl's settings of the algorithm that are parameters by name; null is no setting."""
    group = OmegaConf.to_container(algorithm, resolve=True)
    assert isinstance(group, dict)
    return {str(name): value for name, value in group.items() if name in parameters and value is not None}


@dataclass(frozen=True)
class Beside:
    """What is laid beside verl's call of the estimator, and what the advantage leaves there."""

    columns: "TreeColumns"
    advantage: ChosenAdvantage
    for_loss: dict[str, torch.Tensor] = field(default_factory=dict)
    """Tensors of shape (batch, response_length) that the advantage has returned for the loss, by name."""


_beside: ContextVar[Beside | None] = ContextVar("trees", default=None)


@contextmanager
def beside(columns: "TreeColumns", advantage: ChosenAdvantage) -> Iterator[Beside]:
    """Let the estimator, when it is called inside the block, see the trees."""
    laid = Beside(columns, advantage)
    token = _beside.set(laid)
    try:
        yield laid
    finally:
        _beside.reset(token)


def estimate_arpo_advantage(
    token_level_rewards: torch.Tensor, response_mask: torch.Tensor, config: Any, index: np.ndarray, **_: Any
) -> tuple[torch.Tensor, torch.Tensor]:
    """The chosen advantage; ARPO's soft one where no trainer of ours has laid the trees beside it.

    Args:
        token_level_rewards: shape (batch, response_length).
        response_mask: shape (batch, response_length).
        config: verl's `algorithm` group.
        index: the prompt of each row.
        **_: other arguments of verl's, which are not needed.
    """
    laid = _beside.get()
    if laid is None:
        return compute_arpo_advantage(token_level_rewards, response_mask, index, config=config)
    batch = laid.columns.batch(token_level_rewards, response_mask, index)
    advantages, for_loss = laid.advantage.compute(batch)
    laid.for_loss.update(for_loss)
    advantages = advantages.masked_fill(response_mask == 0, 0.0)  # tokens that verl has rejected
    return advantages, advantages


def entropy_after_tools(entropy: torch.Tensor, response_mask: torch.Tensor, probe_tokens: int) -> dict[str, float]:
    """Return the mean entropy of the first k sampled tokens after tool results, and of all other sampled tokens.

    Args:
        entropy: of each token, in nats. Shape (batch, response_length).
        response_mask: 1 for sampled tokens, 0 for tool results and padding. Shape (batch, response_length).
        probe_tokens: k.
    """
    is_sampled = response_mask.bool()
    position = torch.arange(entropy.shape[1], device=entropy.device).expand_as(response_mask)
    never = -probe_tokens - 1
    last_result = torch.where(is_sampled, never, position).cummax(dim=1).values
    is_after = is_sampled & (position - last_result <= probe_tokens)
    parts = {"after_tool": entropy[is_after], "elsewhere": entropy[is_sampled & ~is_after]}
    return {f"arpo/actor_entropy/{name}": float(values.mean()) for name, values in parts.items() if len(values)}
