"""verl's inference servers as the scheduler's `Engine`: token ids in, token ids out."""

from typing import Any
from uuid import uuid4

from verl.workers.rollout.llm_server import LLMServerClient

from arpo_verl.rollout.protocols import Generation


class ServerEngine:
    """Sends the requests of one prompt's tree through verl's client.

    A request id reaches verl's load balancer, which keeps one id on one replica, so that siblings meet their prefix
    cache; the client gives every request a fresh id towards vLLM (verl 0.9.1, `workers/rollout/llm_server.py`).
    """

    def __init__(self, client: LLMServerClient, sampling_params: dict[str, Any], stop_strings: list[str]) -> None:
        self._client = client
        self._sampling_params = dict(sampling_params, logprobs=True, stop=stop_strings, include_stop_str_in_output=True)
        self._prompt = uuid4().hex

    async def generate(self, token_ids: list[int], max_tokens: int, request_id: str) -> Generation:
        """Sample up to `max_tokens` tokens.

        Raises:
            RuntimeError: the server returned no log-probability for a token.
        """
        output = await self._client.generate(
            request_id=f"{self._prompt}/{request_id}",
            prompt_ids=token_ids,
            # The client changes the dictionary that it is given.
            sampling_params=dict(self._sampling_params, max_tokens=max_tokens),
        )
        logprobs = output.log_probs or []
        if len(logprobs) != len(output.token_ids):
            raise RuntimeError(
                f"the inference server returned {len(output.token_ids)} tokens and {len(logprobs)} log-probabilities; "
                f"expected one for each: ARPO needs a server that honours `logprobs`"
            )
        first, last = (output.extra_fields.get(f"{end}_global_steps") for end in ("min", "max"))
        return Generation(
            token_ids=list(output.token_ids),
            logprobs=list(logprobs),
            weight_versions=None if first is None or last is None else (first, last),
            is_interrupted=output.stop_reason in ("abort", "aborted"),
        )
