"""Composes a run's configuration from the overrides of its command line, without importing verl."""

from importlib.resources import files
from pathlib import Path

from hydra import compose, initialize_config_dir, initialize_config_module
from omegaconf import DictConfig, OmegaConf

from arpo_verl.preflight.tool_list import verl_folder
from arpo_verl.presets.fill import fill_preset

PRESET = ("pkg://arpo_verl.config", "arpo_trainer")
PACKAGE = "pkg://"
SEARCH_PATH = "hydra.searchpath"


def compose_config(config_path: str, config_name: str, overrides: list[str]) -> DictConfig:
    """Return the configuration that verl's command would have with the same overrides, its preset filled in.

    Args:
        config_path: an absolute folder or pkg://package; Hydra reads a relative one from the folder of
            `verl/trainer/main_ppo.py`.

    Raises:
        ValueError, hydra.errors.HydraException, OmegaConfBaseException, yaml.YAMLError: there is no such
            configuration, or an override does not fit it.
    """
    config = _composed(_without_verl(config_path), config_name, overrides)
    fill_preset(config, overrides)
    return config


def _composed(place: str, config_name: str, overrides: list[str]) -> DictConfig:
    if not place.startswith(PACKAGE):
        folder = verl_folder() / "trainer" / place.removeprefix("file://")
        if not folder.is_dir():
            raise ValueError(
                f"--config-path {place!r} is no folder ({folder}); expected an absolute path or pkg://package"
            )
        with initialize_config_dir(str(folder), version_base=None):
            return compose(config_name, [*_search_path(folder / config_name, overrides), *overrides])
    module = place.removeprefix(PACKAGE)
    primary = Path(str(files(module))) / config_name
    with initialize_config_module(module, version_base=None):
        return compose(config_name, [*_search_path(primary, overrides), *overrides])


def _without_verl(place: str) -> str:
    """Return a place inside verl as a folder: Hydra would import the package, which takes seconds."""
    if not place.startswith(f"{PACKAGE}verl."):
        return place
    return f"file://{verl_folder().joinpath(*place.split('.')[1:])}"


def _search_path(primary: Path, overrides: list[str]) -> list[str]:
    """Return the override that moves the search path of a primary configuration to verl's folders."""
    file = primary.with_name(primary.name.removesuffix(".yaml") + ".yaml")
    if not file.is_file() or any(override.lstrip("+~").startswith(SEARCH_PATH) for override in overrides):
        return []
    places = OmegaConf.select(OmegaConf.load(file), SEARCH_PATH, default=[])
    quoted = ",".join("'" + _without_verl(str(place)).replace("'", "\\'") + "'" for place in places)
    return [f"{SEARCH_PATH}=[{quoted}]"] if places else []
