"""verl's inference servers as the scheduler's `InferenceEngine`: token ids in, token ids out."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any
from uuid import uuid4

from verl.workers.rollout.llm_server import LLMServerClient
from verl.workers.rollout.replica import TokenOutput

from arpo_verl.integration.serving.server import ENTROPIES, FINISH_REASON, InferenceServer, Stops
from arpo_verl.rollout.protocols import Generation, GenerationRequest
from arpo_verl.rollout.seeds import derived_seed

_attempts: ContextVar[list[dict[str, Any]]] = ContextVar("attempts")


class _RecordingClient(LLMServerClient):
    """Keeps the extra fields of each attempt at a request, and gives each attempt a seed of its own.

    verl's client of the asynchronous trainers resumes an aborted request and then returns four known fields alone
    (verl 0.9.1, `workers/rollout/llm_server.py`, `FullyAsyncLLMServerClient.generate`); each of its attempts goes
    through the base class, in whose place this one is put. It repeats the request's seed, with which the rest of a turn
    would be drawn by the random numbers of its beginning.
    """

    async def generate(self, request_id: str, *, sampling_params: dict[str, Any], **kwargs: Any) -> TokenOutput:
        attempts = _attempts.get()
        if attempts and "seed" in sampling_params:
            sampling_params = sampling_params | {"seed": derived_seed(f"{sampling_params['seed']}/{len(attempts)}")}
        output = await super().generate(request_id, sampling_params=sampling_params, **kwargs)
        attempts.append(output.extra_fields)
        return output


@contextmanager
def attempts_of() -> Iterator[list[dict[str, Any]]]:
    """Collect the extra fields of each attempt at the request that a recording client makes inside the block."""
    attempts: list[dict[str, Any]] = []
    token = _attempts.set(attempts)
    try:
        yield attempts
    finally:
        _attempts.reset(token)


def recording(client: LLMServerClient) -> LLMServerClient:
    """Return the client, on the same state, with its attempts recorded; one that is not verl's is returned as it is."""
    if isinstance(client, _RecordingClient) or not isinstance(client, LLMServerClient):
        return client
    kind: type = type(client)
    recorder: LLMServerClient = object.__new__(_recording_kind(kind))
    recorder.__dict__ = client.__dict__  # one state: what the client counts is seen from both
    return recorder


@functools.cache
def _recording_kind(kind: type) -> type:
    bases = (_RecordingClient,) if kind is LLMServerClient else (kind, _RecordingClient)
    return type(f"Recording{kind.__name__}", bases, {})


class ServerEngine:
    """Sends the requests of one prompt's tree through verl's client.

    A request id reaches verl's load balancer, which keeps one id on one replica, so that siblings meet their prefix
    cache; the client gives every request a fresh id towards vLLM (verl 0.9.1, `workers/rollout/llm_server.py`).
    """

    def __init__(
        self, client: LLMServerClient, server: InferenceServer, sampling_params: dict[str, Any], stops: Stops
    ) -> None:
        """
        Args:
            client: verl's.
            server: what it is a client of.
            sampling_params: verl's, for the inference server.
            stops: where turns end.
        """
        self.client = recording(client)
        self.server = server
        self._sampling_params = server.sampling_parameters(sampling_params, stops)
        self.prompt_id = uuid4().hex
        """What the balancer knows the prompt's requests by, beside their own ids."""

    async def generate(self, request: GenerationRequest) -> Generation:
        """Sample up to `request.max_tokens` tokens.

        Raises:
            RuntimeError: the server returned no log-probability for a token.
        """
        with attempts_of() as attempts:
            output = await self.client.generate(
                request_id=f"{self.prompt_id}/{request.request_id}",
                prompt_ids=request.token_ids,
                sampling_params=self._parameters(request),
            )
        logprobs = output.log_probs or []
        if len(logprobs) != len(output.token_ids):
            raise RuntimeError(
                f"the inference server returned {len(output.token_ids)} tokens and {len(logprobs)} log-probabilities; "
                f"expected one for each: ARPO needs a server that honours `logprobs`"
            )
        first, last = (output.extra_fields.get(f"{end}_global_steps") for end in ("min", "max"))
        measured = [attempt[ENTROPIES] for attempt in attempts if ENTROPIES in attempt]
        finish_reason = attempts[-1].get(FINISH_REASON) if attempts else None
        return Generation(
            token_ids=list(output.token_ids),
            logprobs=list(logprobs),
            # A resumed request measures from where it was aborted.
            entropies=[value for part in measured for value in part][: request.entropy_tokens] if measured else None,
            weight_versions=None if first is None or last is None else (first, last),
            is_interrupted=self.server.is_interrupted(output.stop_reason),
            is_at_limit=self.server.is_at_limit(finish_reason),
            cached_tokens=output.extra_fields.get("num_cached_tokens"),
        )

    def _parameters(self, request: GenerationRequest) -> dict[str, Any]:
        """Return the request's own copy, because the client changes it."""
        parameters = dict(self._sampling_params, max_tokens=request.max_tokens)
        if request.entropy_measure is not None:
            parameters |= self.server.entropy_parameters(request.entropy_tokens, request.entropy_measure)
        if request.seed is not None:
            parameters["seed"] = request.seed
        return parameters
