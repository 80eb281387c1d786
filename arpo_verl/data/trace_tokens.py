"""The tokens of a trace in tags, as the rollout would have produced them.

A turn of the model and a result are encoded apart and never across their border, by the rollout's own syntax, in which
a result opens and closes nothing (`arpo_verl.rollout.tag_syntax`). Encoding the whole text at once gives other tokens
wherever the tokenizer would merge what stands on both sides, and decoding to training on tokens that the rollout never
shows.
"""

from itertools import takewhile
from typing import Any

from arpo_verl.rollout.tag_syntax import Tags, TagSyntax

PROMPT_ROLES = ("system", "user")


def encode_tag_trace(
    messages: list[dict[str, Any]], tokenizer: Any, tags: Tags, template_options: dict[str, Any] | None = None
) -> tuple[list[int], list[int]]:
    """Return token ids and loss mask (1 where the model wrote the token) of a trace in tags.

    Args:
        messages: the prompt, then assistant and tool messages in turn, as `arpo_verl.data.traces.tag_turns` has them.
        tokenizer: a Hugging Face tokenizer with a chat template.
        tags: how results are written.
        template_options: verl's `data.apply_chat_template_kwargs`.
    """
    prompt = list(takewhile(lambda message: message["role"] in PROMPT_ROLES, messages))
    plain = [{"role": message["role"], "content": message["content"]} for message in prompt]
    ids = list(
        tokenizer.apply_chat_template(
            plain, add_generation_prompt=True, tokenize=True, return_dict=False, **(template_options or {})
        )
    )
    mask = [0] * len(ids)
    syntax = TagSyntax.from_tokenizer(tokenizer, tags)
    for message in messages[len(prompt) :]:
        is_result = message["role"] == "tool"
        piece = syntax.encode_result(message["content"]) if is_result else syntax.encode(message["content"])
        ids += piece
        mask += [0 if is_result else 1] * len(piece)
    # Where the rollout stops (`arpo_verl.integration.rollout.agent_loop.end_token_ids`).
    return [*ids, tokenizer.eos_token_id], [*mask, 1]
