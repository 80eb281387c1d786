"""The one place at which a policy loss gets more than verl passes on: entropies with gradient, and the trees' tensors.

verl 0.9.1 sets `partial(ppo_loss, config=...)` in its worker (`workers/engine_workers.py`, `init_model`) and lets a
trainer set another function (`set_loss_fn`). `ppo_loss` (`workers/utils/losses.py`) narrows the micro-batch to mask,
old log-probabilities and advantages, and calls the loss that `config.policy_loss.loss_mode` names. Here the trainer
sets a function that lays what the loss names beside that call and leaves the rest to `ppo_loss`: normalisation by
`global_batch_info`, aggregation of metrics, entropy and KL terms. A run without a loss of ours sets nothing.

Relied on: the function that is set is called with `model_output`, `data` and `dp_group`
(`workers/engine/*/transformer_impl.py`); every column that the trainer puts into the queue is in `data`; and
`model_output` has entropies where `actor.calculate_entropy` is true.
"""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from types import ModuleType
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf, open_dict

from arpo_verl.integration.settings import arpo_config
from arpo_verl.integration.training.mini_batch_sums import MiniBatchSums
from arpo_verl.losses import ENTROPY, EXTRAS, MINI_BATCH_SUMS, PAST_ENTROPY, VERLS_ARGUMENTS, Needs
from arpo_verl.named_parts import LOSSES, parameters_of, require_accepted

PREFIX = "arpo_"
"""What our losses' names begin with in verl's registry, where other packages have names too."""
BESIDE = "arpo.loss"
"""Name in verl's registry of the loss that has been laid beside the call."""
VERLS_DEFAULT = "vanilla"
"""`actor_rollout_ref.actor.policy_loss.loss_mode` of a run that says nothing."""
MODE = "actor_rollout_ref.actor.policy_loss.loss_mode"
COLUMN = "arpo_loss_{}"
"""Name of a column of the queue that is there for the loss."""

PolicyLoss = Callable[..., tuple[torch.Tensor, dict[str, Any]]]

_beside: ContextVar[PolicyLoss | None] = ContextVar("policy_loss", default=None)


@dataclass(frozen=True)
class ChosenLoss:
    """A loss of ours, or the user's own, and what it asks for. It travels to every worker."""

    key: str
    """What the user has set, for messages."""
    name: str
    """A name in `arpo_verl.losses`, or a dotted path."""
    settings: Mapping[str, Any]
    named: tuple[str, ...]
    """What is filled in for it, where it is there: parameters that are no arguments of verl's and have no setting."""
    required: tuple[str, ...]
    """What of that it can't do without."""

    @classmethod
    def of(cls, config: DictConfig) -> "ChosenLoss | None":
        """Return the loss that a configuration chooses; None where it is one of verl's own.

        Raises:
            ValueError: it can't be found, does not take its settings, or is chosen twice.
        """
        arpo, mode = arpo_config(config), OmegaConf.select(config, MODE)
        key, name = f"arpo.loss={arpo.loss}", arpo.loss
        registered = isinstance(mode, str) and mode.startswith(PREFIX) and mode.removeprefix(PREFIX) in LOSSES.names
        if name is None and registered:
            key, name = f"{MODE}={mode}", str(mode).removeprefix(PREFIX)
        if name is None:
            if arpo.loss_kwargs:
                raise ValueError(
                    f"arpo.loss_kwargs={dict(arpo.loss_kwargs)} without a loss to take them ({MODE}={mode} is verl's "
                    f"own); expected arpo.loss set, to one of {', '.join(LOSSES.names)} or a dotted path: set it"
                )
            return None
        if arpo.loss is not None and mode not in (None, VERLS_DEFAULT, f"{PREFIX}{arpo.loss}"):
            raise ValueError(f"arpo.loss={arpo.loss} with {MODE}={mode}; expected one of them: leave one out")
        function = LOSSES.find(name, "arpo.loss")
        parameters = parameters_of(function, key)
        _require_verls_arguments(parameters, key)
        reserved = {*VERLS_ARGUMENTS, *EXTRAS}
        require_accepted(arpo.loss_kwargs, parameters, reserved, "arpo.loss_kwargs")
        needs = _needs(function, parameters, arpo.loss_kwargs, key)
        return cls(key, name, dict(arpo.loss_kwargs), (*needs.required, *needs.optional), needs.required)

    @property
    def columns(self) -> tuple[str, ...]:
        """What it names that may be a column of the queue."""
        return tuple(name for name in self.named if name not in (ENTROPY, MINI_BATCH_SUMS))

    def wants(self, name: str) -> bool:
        """Whether it names something."""
        return name in self.named

    def require(self, present: set[str]) -> None:
        """Check that everything is there that it can't do without.

        Raises:
            ValueError: something is missing.
        """
        missing = [name for name in self.required if name not in present]
        if missing:
            raise ValueError(
                f"{self.key} has the parameters {missing}, which nothing fills in; expected settings in "
                f"arpo.loss_kwargs, {', '.join(EXTRAS)}, or tensors that the advantage returns by name: correct them"
            )


def _needs(
    function: PolicyLoss, parameters: Mapping[str, inspect.Parameter], settings: Mapping[str, Any], key: str
) -> Needs:
    """Return what a loss says that it needs with its settings, or else its parameters that have none.

    Raises:
        ValueError: it does not take the settings.
    """
    by_settings = getattr(function, "needs", None)
    if by_settings is not None:
        try:
            needs: Needs = by_settings(settings)
        except ValueError as error:
            raise ValueError(f"{key} with arpo.loss_kwargs={dict(settings)}: {error}") from error
        return needs
    kinds = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    named = {
        name: parameter.default is inspect.Parameter.empty
        for name, parameter in parameters.items()
        if name not in VERLS_ARGUMENTS and name not in settings and parameter.kind not in kinds
    }
    required = tuple(name for name, is_required in named.items() if is_required)
    return Needs(required, tuple(name for name in named if name not in required))


def _require_verls_arguments(parameters: Mapping[str, inspect.Parameter], key: str) -> None:
    takes_all = any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values())
    missing = [name for name in VERLS_ARGUMENTS if name not in parameters]
    by_position = [name for name, one in parameters.items() if one.kind is inspect.Parameter.POSITIONAL_ONLY]
    if (missing and not takes_all) or by_position:
        raise ValueError(
            f"{key} takes {list(parameters)}; expected the arguments that verl calls a policy loss with, by name: "
            f"{', '.join(VERLS_ARGUMENTS)}: add {missing or by_position}, or **kwargs"
        )


def check_loss(config: DictConfig, by_advantage: Iterable[str] = ()) -> bool:
    """Check the loss that a configuration chooses, before Ray starts, and return whether it is one of ours.

    Args:
        config: verl's configuration.
        by_advantage: names of the tensors that the advantage returns for a loss.

    Raises:
        ValueError: it can't work.
    """
    chosen = ChosenLoss.of(config)
    if chosen is None:
        return False
    if OmegaConf.select(config, "distillation.enabled"):
        raise ValueError(
            f"{chosen.key} with distillation.enabled=True, whose loss is verl's own; expected one of them: leave one "
            f"out"
        )
    if OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode") and chosen.wants(PAST_ENTROPY):
        raise ValueError(
            f"{chosen.key} needs the entropies of past steps, which verl does not compute with "
            f"algorithm.rollout_correction.bypass_mode=True: turn that off, or choose another loss"
        )
    chosen.require({*EXTRAS, *by_advantage})
    return True


def compute_entropies(config: DictConfig, chosen: ChosenLoss) -> None:
    """Have verl's actor compute entropies, with gradient, where a loss asks for them."""
    if chosen.wants(ENTROPY):
        with open_dict(config):
            config.actor_rollout_ref.actor.calculate_entropy = True


def set_loss(workers: Any, config: DictConfig, chosen: ChosenLoss) -> None:
    """Let the actor's workers train with a loss of ours.

    Args:
        workers: verl's worker group of the actor, with models made.
        config: verl's configuration.
        chosen: the loss.
    """
    from verl.utils.config import omega_conf_to_dataclass

    actor = OmegaConf.create(OmegaConf.to_container(config.actor_rollout_ref.actor, resolve=True))
    actor.policy_loss.loss_mode = BESIDE
    function = partial(ppo_loss_with_more, config=omega_conf_to_dataclass(actor), chosen=chosen, sums=MiniBatchSums())
    workers.set_loss_fn(function)


def ppo_loss_with_more(
    config: Any,
    model_output: Mapping[str, Any],
    data: Any,
    dp_group: Any = None,
    *,
    chosen: ChosenLoss,
    sums: MiniBatchSums,
) -> tuple[torch.Tensor, dict[str, Any]]:
    """Return verl's `ppo_loss` of a micro-batch with a loss of ours in it; the result is `ppo_loss`'s.

    Args:
        config, model_output, data, dp_group: `ppo_loss`'s.
        chosen: the loss.
        sums: what is kept from one mini-batch to the next, in this process.
    """
    from verl.workers.utils.losses import ppo_loss

    named: dict[str, Any] = _named(chosen, model_output, data)
    if chosen.wants(MINI_BATCH_SUMS):
        named[MINI_BATCH_SUMS] = partial(sums.add, data=data, dp_group=dp_group)
    chosen.require(set(named))
    function = partial(LOSSES.find(chosen.name, "arpo.loss"), **chosen.settings, **named)
    with _laid_beside(partial(_checked, chosen.key, function)):
        loss, metrics = ppo_loss(config=config, model_output=model_output, data=data, dp_group=dp_group)
    return loss, metrics


def _named(chosen: ChosenLoss, model_output: Mapping[str, Any], data: Any) -> dict[str, torch.Tensor]:
    """Return what a loss names, each as wide as the micro-batch's responses."""
    from verl.workers.utils.padding import no_padding_2_padding

    width = int(data["responses"].offsets().diff().max())
    named = {}
    for name in chosen.columns:
        if COLUMN.format(name) in data:
            column = data[COLUMN.format(name)]
            padding = -1 if name == "segment_ids" else 0
            named[name] = torch.nested.to_padded_tensor(column, padding, (len(column), width))
    if "is_excluded" in named:
        named["is_excluded"] = named["is_excluded"][:, 0].bool()
    if PAST_ENTROPY in named:
        named[PAST_ENTROPY] = named[PAST_ENTROPY][0, 0]
    if chosen.wants(ENTROPY):
        named[ENTROPY] = no_padding_2_padding(model_output[ENTROPY], data)
    return named


def _checked(key: str, function: PolicyLoss, **arguments: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    """Call a loss.

    Raises:
        ValueError: it has returned something else than verl expects.
    """
    result: Any = function(**arguments)
    is_pair = isinstance(result, tuple) and len(result) == 2 and isinstance(result[1], Mapping)
    if not (is_pair and isinstance(result[0], torch.Tensor) and result[0].dim() == 0):
        returned = " ".join(repr(result).split())
        raise ValueError(
            f"{key} returned {returned:.200}; expected a tensor without dimensions, the loss as verl's `agg_loss` "
            f"makes it, and a dictionary of metrics: change it"
        )
    return result[0], dict(result[1])


@contextmanager
def _laid_beside(function: PolicyLoss) -> Iterator[None]:
    token = _beside.set(function)
    try:
        yield
    finally:
        _beside.reset(token)


def _call_beside(**arguments: Any) -> tuple[torch.Tensor, dict[str, Any]]:
    """Call the loss that has been laid beside verl's call."""
    function = _beside.get()
    assert function is not None, f"the policy loss {BESIDE} is called by a trainer of arpo-verl alone"
    return function(**arguments)


def register_losses(core_algos: ModuleType) -> None:
    """Make our losses known to verl by name; they are imported when they are called."""

    def by_name(name: str) -> PolicyLoss:
        def loss(**arguments: Any) -> tuple[torch.Tensor, dict[str, Any]]:
            result: tuple[torch.Tensor, dict[str, Any]] = LOSSES.shipped(name, "arpo.loss")(**arguments)
            return result

        return loss

    core_algos.register_policy_loss(BESIDE)(_call_beside)
    for name in LOSSES.names:
        core_algos.register_policy_loss(f"{PREFIX}{name}")(by_name(name))
