"""What a tokenizer's chat template writes at the beginning of the model's turn."""

import functools
import json
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import TemplateError
from omegaconf import OmegaConf

from arpo_verl.reward.prefill import template_prefix


@functools.lru_cache(maxsize=8)
def chat_prefix(tokenizer: Any, template_kwargs: str = "{}") -> str | None:
    """Return the `<think>` that a tokenizer's chat template opens for the model, "" if none, None if it can't be told.

    Args:
        tokenizer: one of transformers.
        template_kwargs: verl's `data.apply_chat_template_kwargs`, as JSON.
    """

    def render(messages: Sequence[Mapping[str, str]], begins_turn: bool) -> str:
        kwargs = json.loads(template_kwargs)
        return str(tokenizer.apply_chat_template(messages, add_generation_prompt=begins_turn, tokenize=False, **kwargs))

    try:
        return template_prefix(render)
    except TemplateError:  # a template may refuse a conversation of one question
        return None


def plain_json(value: Any) -> str:
    """Return a part of a configuration as JSON."""
    return json.dumps(OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value)
