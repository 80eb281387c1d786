"""Asks an inference server for the log-probabilities of tokens after a context, by verl's client.

The log-probabilities are those of the model itself, at temperature 1 and over the whole vocabulary: vLLM applies no
sampling parameters to the tokens of a prompt, in `logprobs_mode=processed_logprobs`, which is verl's, as in
`raw_logprobs` (`v1/worker/gpu_model_runner.py`, `_get_prompt_logprobs_dict`). verl 0.9.1 hands them on in
`extra_fields` (`vllm_rollout/utils.py`, `extract_prompt_logprobs`): one list a token, the first token left out, a dummy
at the end.
"""

from typing import Any

from verl.workers.rollout.llm_server import LLMServerClient

from arpo_verl.integration.serving.engine import attempts_of, recording
from arpo_verl.integration.serving.server import InferenceServer

LOG_PROBS, TOKEN_IDS, CACHED = "prompt_logprobs", "prompt_ids", "num_cached_tokens"
"""Keys of verl's `TokenOutput.extra_fields`."""


class ScoringClient:
    """Scores tokens that are given after contexts of one prompt's tree."""

    def __init__(self, client: LLMServerClient, server: InferenceServer, prompt_id: str) -> None:
        """
        Args:
            client: verl's.
            server: what it is a client of.
            prompt_id: that of the tree's `ServerEngine`, so that requests go where the prefix is cached.
        """
        self._client = recording(client)
        self._server = server
        self._prompt_id = prompt_id

    async def log_probs(self, context: list[int], scored: list[int], last: int, request_id: str) -> list[float]:
        """Return the log-probabilities of the last of some tokens that follow a context.

        What the server has of the context in its prefix cache is not computed again. Where it has a piece of the
        scored tokens there too, as after an equal request, it is asked once more without the cache.

        Args:
            context: the tokens before.
            scored: the tokens after it.
            last: how many of their last ones are wanted.
            request_id: the same for all requests that share a prefix.

        Raises:
            RuntimeError: the server brought no log-probabilities of these tokens.
        """
        tokens = context + scored
        # The position before the first wanted token has to be computed, not found.
        most_cached = len(tokens) - last - 1
        fields = await self._ask(tokens, request_id, reads_cache=True)
        cached = fields.get(CACHED)
        if cached is None or cached > most_cached:
            fields = await self._ask(tokens, request_id, reads_cache=False)
        end = slice(-1 - last, -1)
        ids, log_probs = (fields.get(name) or [] for name in (TOKEN_IDS, LOG_PROBS))
        got = [one[0] for one in ids[end]]
        if got != tokens[-last:]:
            raise RuntimeError(
                f"the inference server returned log-probabilities of the tokens {got}; expected {tokens[-last:]}: "
                f"arpo.information_gain needs a server that honours `prompt_logprobs`"
            )
        return [float(one[0]) for one in log_probs[end]]

    async def _ask(self, tokens: list[int], request_id: str, reads_cache: bool) -> dict[str, Any]:
        """Return the extra fields of the attempt that was answered; the others have been aborted."""
        with attempts_of() as attempts:
            output = await self._client.generate(
                request_id=f"{self._prompt_id}/{request_id}",
                prompt_ids=tokens,
                sampling_params=self._server.scoring_parameters(reads_cache),
            )
        return next((fields for fields in (output.extra_fields, *reversed(attempts)) if LOG_PROBS in fields), {})
