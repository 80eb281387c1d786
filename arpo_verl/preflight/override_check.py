"""Whether the overrides of a command can work, before anything of it is made.

`python -m arpo_verl.preflight.override_check CONFIG_PATH CONFIG_NAME [KEY=VALUE...]` exits with 0, or with 2 and the
reason. Only values are looked at: files of the run and the machine are what `arpo-verl doctor` checks.
"""

import contextlib
import inspect
import io
import sys
import warnings

import yaml
from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from arpo_verl.integration.serving.server import under_verls_name
from arpo_verl.integration.settings import RunParts, register_resolver
from arpo_verl.preflight import checks as preflight
from arpo_verl.preflight.compose import compose_config
from arpo_verl.preflight.rollout_checks import check_estimator

HYDRA_FLAGS = ("--cfg", "--info", "--help", "--hydra-help", "--resolve", "--package", "-c", "-h", "-p", "-i")
"""The flags with which Hydra prints something and runs nothing."""


def problem(config_path: str, config_name: str, overrides: list[str]) -> str | None:
    """Return what is wrong with the overrides of a configuration, or None."""
    register_resolver()
    try:
        config = compose_config(config_path, config_name, overrides)
        check_estimator(config)
        preflight.check_parts(config)
        if RunParts.of(config).grows_trees:
            preflight.check_values(config)
    except (ValueError, ImportError, HydraException, OmegaConfBaseException, yaml.YAMLError) as error:
        return str(error)
    return _problem_of_verls(config)


def _problem_of_verls(config: DictConfig) -> str | None:
    """Return what verl's own validation says, which runs before Ray as well."""
    from verl.trainer.ppo.utils import need_critic, need_reference_policy
    from verl.utils.config import validate_config

    stock = inspect.unwrap(validate_config)  # ours looks at files too
    try:
        with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stock(under_verls_name(config), need_reference_policy(config), need_critic(config))
    except Exception as error:
        # verl asserts, and a value of another type fails wherever it is used first.
        return f"verl refuses the configuration ({type(error).__name__}): {error}"
    return None


def main() -> None:
    """Check what is on the command line."""
    config_path, config_name, *overrides = sys.argv[1:]
    if any(word in HYDRA_FLAGS for word in overrides):
        return
    if found := problem(config_path, config_name, overrides):
        print(found, file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
