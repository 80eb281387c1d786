"""What has to be known of an inference server, and finding the one that a run uses by verl's name of its rollout."""

import copy
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Protocol

from omegaconf import DictConfig, OmegaConf, open_dict

from arpo_verl.integration.settings import arpo_config
from arpo_verl.named_parts import SERVERS
from arpo_verl.rollout.protocols import EntropyMeasure

ENTROPIES, FINISH_REASON = "arpo_entropies", "arpo_finish_reason"
"""Keys of verl's `TokenOutput.extra_fields`: entropies in nats at each of the first tokens, and why a turn ended."""


@dataclass(frozen=True)
class Stops:
    """Where the server has to end a turn, beside the model's own end tokens."""

    strings: list[str]
    token_ids: list[int]


class InferenceServer(Protocol):
    """Everything that differs from one inference server to the next."""

    rollout: str
    """verl's name of the rollout (`actor_rollout_ref.rollout.name`)."""
    measuring_rollout: str
    """Name of the rollout whose replicas also measure entropies; verl learns it from here."""

    def register_weight_transfer(self, rollouts: ModuleType) -> None:
        """Tell verl (`verl.workers.rollout.base`) how the trainer's weights reach the measuring replicas."""

    def register_replica(self, replicas: ModuleType) -> None:
        """Tell verl (`verl.workers.rollout.replica`) of the measuring replica."""

    def check_installed(self) -> None:
        """Check the server's package.

        Raises:
            RuntimeError: it is missing or too old.
        """

    def check(self, config: DictConfig) -> None:
        """Check what a configuration asks of the server.

        Raises:
            ValueError: it can't do that.
        """

    def sampling_parameters(self, sampling: dict[str, Any], stops: Stops) -> dict[str, Any]:
        """Return the parameters of all requests of a run, with log-probabilities and stops in the server's terms."""

    def entropy_parameters(self, tokens: int, measure: EntropyMeasure) -> dict[str, Any]:
        """Return the parameters that have the entropies of the first tokens measured."""

    def scoring_parameters(self, reads_cache: bool) -> dict[str, Any]:
        """Return the parameters of a request that scores its own last tokens: one that samples one token and brings the
        log-probability of each token that it was given, in verl's `TokenOutput.extra_fields["prompt_logprobs"]`.

        Args:
            reads_cache: whether the server may take what it has in its prefix cache, of which it then brings no
                log-probabilities; where it can't, it leaves the cache alone.
        """

    def is_interrupted(self, stop_reason: str | None) -> bool:
        """Whether verl's `TokenOutput.stop_reason` says that the server gave up on a request."""

    def is_at_limit(self, finish_reason: str | None) -> bool:
        """Whether the server's own reason says that a limit on tokens ended a turn."""

    def command(self, config: DictConfig, model: str, port: int) -> tuple[list[str], dict[str, str]]:
        """Return the command that serves the run's model over HTTP on this machine, and its environment.

        Args:
            config: verl's configuration.
            model: the name under which the model is served.
            port: to listen at, on 127.0.0.1.
        """


def all_servers() -> list[InferenceServer]:
    """Return one object for each server that is known."""
    return [SERVERS.shipped(name, "server")() for name in SERVERS.names]


def server_of(config: DictConfig) -> InferenceServer:
    """Return the server that a configuration's rollout is served by.

    Raises:
        ValueError: it is none of those that are known.
    """
    name = _rollout_name(config)
    for server in all_servers():
        if name in (server.rollout, server.measuring_rollout):
            return server
    names = [name for server in all_servers() for name in (server.rollout, server.measuring_rollout)]
    raise ValueError(f"actor_rollout_ref.rollout.name={name!r}; expected one of {', '.join(names)}: change it")


def choose_rollout(config: DictConfig) -> None:
    """Take the replicas that measure entropies in place of verl's own where they are wanted."""
    server = server_of(config)
    if arpo_config(config).entropy_source == "topk":
        config.actor_rollout_ref.rollout.name = server.measuring_rollout


def under_verls_name(config: DictConfig) -> DictConfig:
    """Return a configuration in which the rollout has verl's name, by which verl decides what it checks."""
    name = _rollout_name(config)
    for server in all_servers():
        if name == server.measuring_rollout:
            renamed = copy.deepcopy(config)
            with open_dict(renamed):
                renamed.actor_rollout_ref.rollout.name = server.rollout
            return renamed
    return config


def _rollout_name(config: DictConfig) -> str | None:
    rollout = config.actor_rollout_ref.rollout
    return None if OmegaConf.is_missing(rollout, "name") else rollout.name
