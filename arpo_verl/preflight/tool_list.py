"""Reads verl's tool list without verl: which entries are our own tools, with what options."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

MODULE = "arpo_verl.integration.rollout.tools"
FORMER_MODULE = "arpo_verl.integration.tools"
KINDS = {
    f"{module}.{name}": kind
    for module in (MODULE, FORMER_MODULE)
    for name, kind in (("PythonTool", "python"), ("SearchTool", "search"), ("BrowserTool", "browse"))
}
"""Class name of each of our tools, and the name that the model knows it by."""


@contextlib.contextmanager
def tool_errors_as_value_errors(paths: list[str]) -> Iterator[None]:
    """Turn what options that don't fit a tool raise into a ValueError that names the files they come from."""
    try:
        yield
    except (OmegaConfBaseException, TypeError, AttributeError) as error:
        raise ValueError(
            f"the tools of {paths} can't be made: {error}; expected a verl "
            f"tool list whose `config` has the tool's own arguments, and every variable that it names set: correct it"
        ) from error


def tool_list(path: str) -> ListConfig:
    """Return the entries of verl's tool list, variables in them not yet filled in.

    Raises:
        ValueError: it has none.
    """
    content = OmegaConf.load(path)
    tools = content.get("tools") if isinstance(content, DictConfig) else None
    if not tools:
        raise ValueError(f"{path} has no `tools`; expected verl's tool list: see arpo_tools/tools.yaml for one")
    entries: ListConfig = tools
    return entries


@dataclass(frozen=True)
class ToolEntry:
    """One of our tools in a tool list."""

    path: str
    """The path of the tool list."""
    kind: str
    config: DictConfig
    """Its `config`, variables not yet filled in."""

    @property
    def label(self) -> str:
        """Return the tool's name in the report, with the back-end of a search."""
        backend = OmegaConf.to_container(self.config).get("backend", "local")  # type: ignore[union-attr]
        return f"{self.kind} ({backend})" if self.kind == "search" else self.kind

    def options(self) -> dict[str, Any]:
        """Return the tool's arguments.

        Raises:
            ValueError: a variable of the environment that it names is not set.
        """
        with tool_errors_as_value_errors([self.path]):
            options = OmegaConf.to_container(self.config, resolve=True)
        return {str(key): value for key, value in options.items() if key != "type"}  # type: ignore[union-attr]


def tool_file(config: DictConfig, key: str) -> str | None:
    """Return the path of `multi_turn.<key>`, searched for where verl does (`utils/import_utils.py`); None if unset.

    Raises:
        ValueError: there is no such file.
    """
    path = config.actor_rollout_ref.rollout.multi_turn[key]
    if not path:
        return None
    for folder in (Path.cwd(), verl_folder().parent, verl_folder()):
        if (folder / path).is_file():
            return str(folder / path)
    raise ValueError(f"actor_rollout_ref.rollout.multi_turn.{key}={path!r} is not a file: correct the path")


def verl_folder() -> Path:
    """Return where verl is installed, without importing it.

    Raises:
        ValueError: it is not.
    """
    package = find_spec("verl")
    if package is None or not package.submodule_search_locations:
        raise ValueError("verl is not installed; expected its package: pip install 'verl==0.9.1'")
    return Path(package.submodule_search_locations[0])


def own_entries(path: str) -> list[ToolEntry]:
    """Return the entries of our own tools.

    Raises:
        ValueError: the file is no tool list.
    """
    return [ToolEntry(path, KINDS[entry.class_name], entry.config) for entry in tool_list(path) if _is_own(entry)]


def other_entries(path: str) -> list[DictConfig]:
    """Return all other entries.

    Raises:
        ValueError: the file is no tool list.
    """
    return [entry for entry in tool_list(path) if not _is_own(entry)]


def _is_own(entry: Any) -> bool:
    """Whether an entry is one of our tools; verl says what is wrong with one that is no entry at all."""
    is_whole = isinstance(entry, DictConfig) and isinstance(entry.get("config"), DictConfig)
    return is_whole and entry.get("class_name") in KINDS
