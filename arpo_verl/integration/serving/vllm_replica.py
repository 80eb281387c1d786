"""A vLLM replica that returns entropies: the rollout `arpo_vllm`, verl's `vllm` with one more answer.

verl's server asks vLLM for the log-probability of the sampled token alone, and reports `completed` for the end of an
answer and for the end of the budget alike (verl 0.9.1, `vllm_rollout/vllm_async_server.py`, `generate`). This one also
returns, for a request that asks for it, the entropy at each of its first tokens, reduced here from the top-K
log-probabilities so that a few numbers travel instead of K for each token, and vLLM's own finish reason.

The log-probabilities are vLLM's `logprobs_mode`, in verl `processed_logprobs`: of the distribution that is sampled
from, after temperature, top-k and top-p.
"""

from collections.abc import AsyncIterator, Iterator
from contextvars import ContextVar
from typing import Any

import ray
from verl.workers.rollout.replica import TokenOutput
from verl.workers.rollout.vllm_rollout.vllm_async_server import vLLMHttpServer, vLLMReplica

from arpo_verl.entropy import position_entropies
from arpo_verl.integration.serving.server import ENTROPIES, FINISH_REASON
from arpo_verl.integration.serving.vllm_names import ENTROPY_REQUEST, MEASURING_ROLLOUT

_measured: ContextVar[dict[str, Any]] = ContextVar("measured")


class MeasuringEngine:
    """vLLM's engine, with what verl's server would drop kept for the request that is being served."""

    def __init__(self, engine: Any) -> None:
        self._engine = engine

    def __getattr__(self, name: str) -> Any:
        return getattr(self._engine, name)

    async def generate(self, *, sampling_params: Any, **kwargs: Any) -> AsyncIterator[Any]:
        wanted = (sampling_params.extra_args or {}).get(ENTROPY_REQUEST)
        if wanted:
            sampling_params.logprobs = wanted["top_k"]
        output = None
        async for output in self._engine.generate(sampling_params=sampling_params, **kwargs):
            yield output
        if output is not None and output.outputs:
            completion = output.outputs[0]
            _measured.get()[FINISH_REASON] = completion.finish_reason
            if wanted:
                _measured.get()[ENTROPIES] = position_entropies(vllm_logprobs(completion), **wanted)


def vllm_logprobs(completion: Any) -> Iterator[list[float]]:
    """Yield the log-probabilities of each position: the top K, and the sampled token's where it is none of them."""
    for position in completion.logprobs:
        yield [entry.logprob for entry in position.values()]


class EntropyServer(vLLMHttpServer):
    """verl's vLLM server with a measuring engine."""

    engine: Any

    async def run_server(self, *args: Any, **kwargs: Any) -> None:
        await super().run_server(*args, **kwargs)
        self.engine = MeasuringEngine(self.engine)

    async def generate(self, *args: Any, **kwargs: Any) -> TokenOutput:
        """As verl's, with `ENTROPIES` and `FINISH_REASON` in `extra_fields`."""
        measured: dict[str, Any] = {}
        token = _measured.set(measured)
        try:
            output = await super().generate(*args, **kwargs)
        finally:
            _measured.reset(token)
        output.extra_fields.update(measured)
        return output


class EntropyReplica(vLLMReplica):
    """verl's vLLM replica with servers that measure."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # As verl's constructor does it.
        self.server_class = ray.remote(EntropyServer)

    def _get_server_name_prefix(self) -> str:
        # The trainer's side looks the servers up by the rollout's name (verl 0.9.1, `vllm_rollout/vllm_rollout.py`).
        return f"{MEASURING_ROLLOUT}_"
