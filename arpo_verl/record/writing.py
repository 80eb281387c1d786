"""Writes the record of a step: a line with what is said of the step, then one line a prompt.

A prompt is one line, so that a file that ends too early loses its last prompt alone.
"""

import dataclasses
import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any

from arpo_verl.record.content import FORMAT, VERSION, RecordedPrompt, RecordedStep

_OF_THE_HEADER = ("step", "began", "seconds", "alarms", "size")


def write_step(path: Path, step: RecordedStep, prompts: Iterable[RecordedPrompt]) -> None:
    """Write a file, as a whole or not at all.

    Args:
        path: what is there is replaced.
        step: what is said of the step; its `prompts` are not looked at.
        prompts: each is written before the next one is asked for.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f"{path.name}.draft")
    with draft.open("wb") as file:
        file.write(header_line(step))
        for prompt in prompts:
            file.write(prompt_line(prompt))
    os.replace(draft, path)


def header_line(step: RecordedStep) -> bytes:
    """Return the first line of a file, line feed included."""
    about = {name: getattr(step, name) for name in _OF_THE_HEADER}
    return _line({"format": FORMAT, "version": VERSION, **about})


def prompt_line(prompt: RecordedPrompt) -> bytes:
    """Return the line of a prompt, line feed included."""
    return _line(as_json(prompt))


def as_json(value: Any) -> Any:
    """Return a record as dictionaries and lists, without what has its default; a number that is not finite is None."""
    if is_dataclass(value):
        given = {one.name: getattr(value, one.name) for one in fields(value)}
        defaults = {one.name: _default(one) for one in fields(value)}
        return {name: as_json(one) for name, one in given.items() if not _is_default(one, defaults[name])}
    if isinstance(value, Mapping):
        return {name: as_json(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _default(one: "dataclasses.Field[Any]") -> Any:
    return one.default_factory() if one.default_factory is not MISSING else one.default


def _is_default(value: Any, default: Any) -> bool:
    if isinstance(default, (tuple, list, dict)):
        return value is None or len(value) == 0
    return type(value) is type(default) and value == default


def _line(values: Mapping[str, Any]) -> bytes:
    # A tool's text may hold half of a surrogate pair, which UTF-8 can't have and JSON reads back.
    text = json.dumps(values, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    return text.encode(errors="surrogatepass") + b"\n"
