"""verl's client for inference servers, over `POST /v1/completions` of an OpenAI-compatible server.

Written against verl 0.9.1, `workers/rollout/llm_server.py`.
"""

from types import SimpleNamespace
from typing import Any

from omegaconf import DictConfig
from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from arpo_verl.evaluation.run.completions import CompletionServer, ServerCapabilities
from arpo_verl.evaluation.run.server_answers import Completion, ServerMisbehaved, ServerRefused
from arpo_verl.integration.rollout.agent_loop import end_token_ids
from arpo_verl.integration.serving.server import FINISH_REASON
from arpo_verl.integration.settings import arpo_config
from arpo_verl.rollout.seeds import derived_seed
from arpo_verl.rollout.tool_text import valid_text


class CompletionsClient(LLMServerClient):
    """verl's client for inference servers, over HTTP where verl calls a Ray actor."""

    def __init__(self, config: DictConfig, server: CompletionServer, capabilities: ServerCapabilities) -> None:
        super().__init__(config)
        self._server, self._capabilities = server, capabilities
        self.tokenizer: Any = None
        self.seed: float | int | None = None
        self.answers_cut = 0
        """The number of texts that have more tokens than the server was allowed to write."""

    async def _acquire_server(self, request_id: str, **extra: Any) -> tuple[str, Any]:
        async def generate(prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any) -> TokenOutput:
            return await self._complete(request_id, prompt_ids, sampling_params)

        return "", SimpleNamespace(generate=SimpleNamespace(remote=generate))

    def _release_server(self, server_id: str, request_id: str | None = None) -> None:
        """There is nothing to release."""

    async def _complete(self, request_id: str, prompt_ids: list[int], parameters: dict[str, Any]) -> TokenOutput:
        body = {key: value for key, value in parameters.items() if key not in ("logprobs", "extra_args")}
        body["max_tokens"] = self._tokens_left(prompt_ids, body["max_tokens"])
        body["return_token_ids"] = True
        if self.seed is not None:
            # The id begins with what is different in every process; the rest names prompt and sample.
            body["seed"] = derived_seed(f"{self.seed}/{request_id.partition('/')[2]}/{len(prompt_ids)}")
        if not self._capabilities.gives_token_ids:
            body["skip_special_tokens"] = False  # tags and calls may be made of them
        completion = await self._server.complete(prompt_ids, body)
        ids, finish_reason = completion.token_ids, completion.finish_reason
        if not self._capabilities.gives_token_ids:
            ids = self._encode(completion, parameters.get("stop", []))
            if len(ids) > body["max_tokens"]:
                ids, finish_reason = ids[: body["max_tokens"]], "length"
                self.answers_cut += 1
        if ids is None:
            raise ServerMisbehaved(
                "the server gave no `token_ids` with this answer; expected them, as it gave them when the run began"
            )
        # Log-probabilities are the trainer's; evaluation has no use for them.
        return TokenOutput(
            token_ids=ids,
            log_probs=[0.0] * len(ids),
            stop_reason="completed",
            extra_fields={FINISH_REASON: finish_reason},
        )

    def _tokens_left(self, prompt_ids: list[int], asked: int) -> int:
        """Return how many of the requested tokens fit into the model's context.

        verl's server does the same (`vllm_async_server.py`, `generate`).
        """
        limit = self._capabilities.context_length
        if limit is None:
            return asked
        if len(prompt_ids) >= limit:
            raise ServerRefused(f"{len(prompt_ids)} tokens fill the model's context of {limit}", is_for_all=False)
        return min(asked, limit - len(prompt_ids))

    def _encode(self, completion: Completion, stops: list[str]) -> list[int]:
        arpo = arpo_config(self.config)
        text, is_ended = restore_stop(completion, stops, arpo.tag_open, arpo.tag_close)
        text = valid_text(text)  # JSON can bring lone surrogates, which no tokenizer takes
        ids: list[int] = self.tokenizer.encode(text, add_special_tokens=False)
        end = self.tokenizer.eos_token_id
        ends = end_token_ids(self.config.actor_rollout_ref.model.path, end)
        return [*ids, end] if is_ended and not (ids and ids[-1] in ends) else ids


def restore_stop(completion: Completion, stops: list[str], tag_open: str, tag_close: str) -> tuple[str, bool]:
    """Return the text with its stop string, and whether the model ended its answer.

    vLLM keeps a stop string in its text when it is asked to, and says which one it was. A plain OpenAI server does
    neither: its text ends before the stop string or before the end token, with the same `finish_reason`. Then a call
    that was opened and not closed tells them apart.

    Args:
        completion: a completion without token ids.
        stops: the stop strings of the request, which are closing tags.
        tag_open: the opening tag with {tool} for the tool's name.
        tag_close: the closing tag with {tool} for the tool's name.
    """
    text = completion.text
    if completion.finish_reason != "stop" or text.endswith(tuple(stops)):
        return text, False
    if completion.stop_reason in stops:
        return text + str(completion.stop_reason), False
    before, after = tag_close.split("{tool}")
    opened = {
        text.rfind(tag_open.replace("{tool}", stop[len(before) : len(stop) - len(after)])): stop for stop in stops
    }
    last = max(opened, default=-1)
    return (text + opened[last], False) if last >= 0 else (text, True)
