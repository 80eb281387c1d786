"""Loads the tools of a run as every worker will."""

import importlib
from pathlib import Path

from omegaconf import DictConfig

from arpo_verl.integration.settings import TAG_FORMAT, arpo_config
from arpo_verl.preflight.tool_list import tool_errors_as_value_errors, tool_list


def check_tools(config: DictConfig) -> None:
    """Load the tools as every worker will; that also builds the search index before accelerators wait for it."""
    from verl.utils.import_utils import resolve_config_path

    multi_turn = config.actor_rollout_ref.rollout.multi_turn
    paths: dict[str, str | None] = {}
    for key in ("tool_config_path", "function_tool_path"):
        path = multi_turn[key]
        paths[key] = resolve_config_path(path) if path else None
        if path and not Path(str(paths[key])).is_file():
            raise ValueError(f"actor_rollout_ref.rollout.multi_turn.{key}={path!r} is not a file: correct the path")
    names = load_tools(config, paths)
    for name in arpo_config(config).max_calls_per_tool:
        if name not in names:
            raise ValueError(
                f"arpo.max_calls_per_tool.{name} limits a tool that there is not; expected one of {names}: correct it"
            )


def load_tools(config: DictConfig, paths: dict[str, str | None]) -> list[str]:
    """Make the tools of the files `tool_config_path` and `function_tool_path`, None where there is no such file.

    Returns:
        their names.

    Raises:
        ValueError: one of them can't be made.
    """
    from verl.tools.tool_registry import load_all_tools

    from arpo_verl.integration.rollout.call_arguments import parameter_of

    if paths["tool_config_path"]:
        for entry in tool_list(paths["tool_config_path"]):
            _check_class(paths["tool_config_path"], entry)
    with tool_errors_as_value_errors([path for path in paths.values() if path]):
        tools = load_all_tools(**paths)
    if config.actor_rollout_ref.rollout.multi_turn.format == TAG_FORMAT:
        for tool in tools:
            parameter_of(tool)
    return [tool.name for tool in tools]


def _check_class(path: str, entry: DictConfig) -> None:
    class_name = entry.get("class_name")
    module_name, _, attribute = str(class_name).rpartition(".")
    try:
        getattr(importlib.import_module(module_name), attribute)
    except (ImportError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path}: class_name={class_name!r} is not a known tool; expected the dotted name of a class such as "
            f"arpo_verl.integration.rollout.tools.PythonTool: correct it ({error})"
        ) from error
