"""Checks what a run needs of the machine: packages, shared memory, a port."""

import shutil
import socket
from pathlib import Path

from omegaconf import DictConfig
from packaging.version import Version

from arpo_verl.integration.installed import installed_version
from arpo_verl.integration.serving.server import server_of

VERL_VERSIONS = ("0.9.1", "0.10")
SHARED_MEMORY = Path("/dev/shm")


def check_versions(config: DictConfig) -> None:
    verl, (oldest, too_new) = installed_version("verl"), VERL_VERSIONS
    if verl is None or not Version(oldest) <= verl < Version(too_new):
        raise RuntimeError(f"verl {verl} is installed; expected >={oldest},<{too_new}: pip install 'verl=={oldest}'")
    server_of(config).check_installed()


def check_port(config: DictConfig) -> None:
    """Check that Ray's dashboard can have the port that it is given."""
    port = config.ray_kwargs.ray_init.get("dashboard_port") or 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise RuntimeError(
                f"ray_kwargs.ray_init.dashboard_port={port} can't be bound: {error}; "
                f"expected a free port: choose another"
            ) from error


def check_shared_memory(config: DictConfig) -> None:
    """Check the room for weights: without device handles they reach each vLLM replica through a bucket in /dev/shm
    (bucketed_weight_transfer.py)."""
    if config.trainer.device != "cpu":
        return
    bucket_mb = config.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes
    needed_mb = bucket_mb * config.trainer.n_gpus_per_node
    free_mb = shutil.disk_usage(SHARED_MEMORY).free >> 20
    if free_mb < needed_mb:
        raise RuntimeError(
            f"{SHARED_MEMORY} has {free_mb} MB free; expected {needed_mb} MB for the weight buckets of "
            f"{config.trainer.n_gpus_per_node} replicas: enlarge it (docker run --shm-size) or lower "
            f"actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"
        )
