"""The prompt of a row as messages, in the shapes that public datasets have it in."""

import json
from collections.abc import Mapping
from typing import Any

from arpo_verl.data.fields import QUESTION, Fields, RowError, check_unicode
from arpo_verl.data.schema import ROLES

_PACKED = ("extra_info", "reward_model", "prompt", "messages", "conversations")
"""Fields that some files have as JSON text."""
_CONVERSATIONS = ("messages", "conversations")
_OTHER_ROLES = {"human": "user", "gpt": "assistant", "bot": "assistant", "developer": "system"}
"""The role names of ShareGPT and of OpenAI."""


def unpacked(row: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return a row in which fields that hold a struct or messages as JSON text are parsed."""
    values = {name: _json(row[name]) for name in _PACKED if isinstance(row.get(name), str)}
    return {**row, **{name: value for name, value in values.items() if value is not None}} if values else row


def _json(text: str) -> Any:
    if text.strip()[:1] not in ("{", "["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None  # a question may begin like that
    is_list = isinstance(value, list) and value and all(isinstance(one, dict) for one in value)
    return value if is_list or isinstance(value, dict) else None


def messages_of(fields: Fields) -> tuple[list[dict[str, str]] | None, str]:
    """Return the messages that ask the question, None where the row has a question as text, and what follows them.

    What follows is the assistant's last message, of rows that hold a whole conversation; it is no part of the prompt.

    Raises:
        RowError: a message is not what a model can be asked with.
    """
    prompt = fields.get("prompt")
    if isinstance(prompt, list):
        return _messages("prompt", prompt), ""
    name = next((name for name in _CONVERSATIONS if isinstance(fields.get(name), list)), None)
    if name is None or fields.has(*QUESTION):
        return None, ""
    conversation = [_message(name, message) for message in fields.get(name)]
    if len(conversation) > 1 and conversation[-1]["role"] == "assistant":
        return _messages(name, conversation[:-1]), conversation[-1]["content"]
    return _messages(name, conversation), ""


def _messages(name: str, prompt: list[Any]) -> list[dict[str, str]]:
    messages = [_message(name, message) for message in prompt]
    if not messages or messages[-1]["role"] != "user":
        raise RowError(f"field {name!r} does not end with the user's message")
    return messages


def _message(name: str, message: Any) -> dict[str, str]:
    values = message if isinstance(message, Mapping) else {}
    role = values.get("role") or values.get("from")
    role = _OTHER_ROLES.get(role, role) if isinstance(role, str) else role
    if role not in ROLES:
        raise RowError(f"field {name!r} has a message without a role; expected one of {', '.join(ROLES)}")
    content = values["content"] if "content" in values else values.get("value")
    if isinstance(content, list):
        content = _joined(name, content)
    if not isinstance(content, str) or not content.strip():
        raise RowError(f"field {name!r} has a message without content; expected text")
    check_unicode(name, content)
    return {"role": role, "content": content}


def _joined(name: str, parts: list[Any]) -> str:
    """Return the text of a content that is a list of parts."""
    kinds = [part.get("type") if isinstance(part, Mapping) else None for part in parts]
    other = next((kind for kind in kinds if kind not in ("text", "input_text")), None)
    if not parts or other is not None or not all(isinstance(part.get("text"), str) for part in parts):
        raise RowError(f"field {name!r} has a message with a part of the type {other!r}; expected text alone")
    return "\n".join(part["text"] for part in parts)
