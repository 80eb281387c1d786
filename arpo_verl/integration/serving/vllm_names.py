"""Names that vLLM's parts here share, without vLLM."""

MEASURING_ROLLOUT = "arpo_vllm"
"""`actor_rollout_ref.rollout.name` of the replicas that measure entropies."""
ENTROPY_REQUEST = "arpo_entropy"
"""Key of vLLM's `SamplingParams.extra_args`: {tokens, top_k, is_truncated}."""
