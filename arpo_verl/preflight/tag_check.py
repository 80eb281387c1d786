"""Checks that the tags of calls, results and answers reach the reward.

verl decodes a response without special tokens before the reward reads it (verl 0.9.1,
`experimental/reward_loop/reward_manager/naive.py`), so a tag that is a special token of the tokenizer is not there:
every response would score -1, or its calls would look like text.
"""

import ast
import logging
import unicodedata
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from arpo_verl.integration.settings import TAG_FORMAT, arpo_config
from arpo_verl.rollout.tag_syntax import Tags

logger = logging.getLogger(__name__)

OUR_REWARD = "pkg://arpo_verl.reward"
"""`reward.custom_reward_function.path`."""
RELEASED_REWARD = "compute_reference_score"
"""`reward.custom_reward_function.name` of the reward that wants a <think>."""
THINK = ("<think>", "</think>")


def check_tags_of_run(config: DictConfig) -> None:
    """Check the tags of a run with its tokenizer, if that can be loaded here without a network.

    Raises:
        ValueError: see `check_tags`.
    """
    from transformers import AutoTokenizer

    model = config.actor_rollout_ref.model
    place = str(model.get("tokenizer_path") or model.path)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            Path(place).expanduser() if Path(place).expanduser().is_dir() else place,
            trust_remote_code=bool(model.get("trust_remote_code")),
            local_files_only=True,
        )
    except Exception:
        # Whatever its own code raises. verl names a model that it can't load, or fetches it.
        return
    check_tags(config, tokenizer)


def check_tags(config: DictConfig, tokenizer: Any) -> None:
    """Check that a tokenizer's decoding for the reward keeps the tags that the run writes.

    With another reward than ours lost tags are warned of, because it may not read them.

    Raises:
        ValueError: a tag is lost that our reward reads.
    """
    reward = config.reward.custom_reward_function
    is_ours = reward.path == OUR_REWARD
    lost = [tag for tag in _tags(config, is_ours) if not _is_kept(tokenizer, tag)]
    does_without = is_ours and reward.name != RELEASED_REWARD and set(lost) == set(THINK)
    if not lost or does_without:
        return
    problem = (
        f"{', '.join(lost)} are special tokens of the tokenizer of {config.actor_rollout_ref.model.path}, which verl "
        f"leaves out of the text that the reward reads; expected ordinary tokens: add them by "
        f'tokenizer.add_tokens([...]), set "special": false for them in tokenizer.json and tokenizer_config.json, or '
        f"choose another arpo.tag_open, arpo.tag_close or arpo.result_template"
    )
    if is_ours:
        raise ValueError(problem)
    logger.warning("%s. The reward %r must do without them", problem, reward.path)


def _is_kept(tokenizer: Any, tag: str) -> bool:
    ids = tokenizer.encode(tag, add_special_tokens=False)
    # A tokenizer may put spaces around a text, or write other characters, which is no fault of the tag.
    seen, written = (
        "".join(unicodedata.normalize("NFKC", text).casefold().split())
        for text in (tokenizer.decode(ids, skip_special_tokens=True), tag)
    )
    return seen == written


def _tags(config: DictConfig, is_ours: bool) -> list[str]:
    """Return the tags that a response of this run has."""
    tags: dict[str, None] = {}
    if config.actor_rollout_ref.rollout.multi_turn.format == TAG_FORMAT:
        arpo = arpo_config(config)
        written = Tags(list(_tool_names(config)), arpo.tag_open, arpo.tag_close, arpo.result_template)
        for name in written.tools:
            tags.update(
                dict.fromkeys([written.opening.replace("{tool}", name), written.closing.replace("{tool}", name)])
            )
        tags.update(dict.fromkeys(border.strip() for border in written.result_borders))
    if is_ours:
        tags.update(dict.fromkeys(["<answer>", "</answer>", *THINK]))
    return [tag for tag in tags if tag]


def _tool_names(config: DictConfig) -> Iterable[str]:
    """Yield the names of the run's tools, as far as they can be read without making them."""
    from verl.utils.import_utils import resolve_config_path

    from arpo_verl.preflight.tool_list import KINDS, tool_list

    multi_turn = config.actor_rollout_ref.rollout.multi_turn
    if multi_turn.tool_config_path:
        for entry in tool_list(resolve_config_path(multi_turn.tool_config_path)):
            own = (entry.get("config") or {}).get("name") or KINDS.get(entry.get("class_name"))
            schema = entry.get("tool_schema")
            name = schema.function.name if schema is not None else own
            if name:
                yield str(name)
    if multi_turn.function_tool_path:
        yield from function_names(Path(resolve_config_path(multi_turn.function_tool_path)).read_text(encoding="utf-8"))


def function_names(source: str) -> Iterable[str]:
    """Yield the names that verl's `@function_tool` gives in a Python file, which is read and not run."""
    for node in ast.walk(ast.parse(source)):
        for decorator in getattr(node, "decorator_list", []):
            arguments = decorator.args if isinstance(decorator, ast.Call) else []
            called = decorator.func if isinstance(decorator, ast.Call) else decorator
            if getattr(called, "id", getattr(called, "attr", None)) == "function_tool":
                given = arguments[0].value if arguments and isinstance(arguments[0], ast.Constant) else None
                yield str(given or node.name)  # type: ignore[attr-defined]
