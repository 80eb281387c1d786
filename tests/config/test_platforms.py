"""The platforms that a run's configuration can name."""

from typing import Any

from omegaconf import OmegaConf

from arpo_verl.preflight.compose import compose_config


def flat(value: Any, place: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {place: value}
    return {name: one for key, inner in value.items() for name, one in flat(inner, f"{place}.{key}".strip(".")).items()}


def settings(platform: str) -> dict[str, Any]:
    config = compose_config("pkg://arpo_verl.config", "arpo_trainer", [f"platform={platform}"])
    return flat(OmegaConf.to_container(config))


def test_cpu_bf16_is_cpu_with_products_in_bf16_and_weights_and_sums_in_fp32():
    plain, bf16 = settings("cpu"), settings("cpu_bf16")
    assert {name: value for name, value in bf16.items() if plain.get(name) != value} == {
        "actor_rollout_ref.actor.fsdp_config.mixed_precision.param_dtype": "bf16",
        "actor_rollout_ref.rollout.dtype": "bfloat16",
        "critic.fsdp.mixed_precision.param_dtype": "bf16",
    }
    assert plain.keys() == bf16.keys()
    assert bf16["actor_rollout_ref.actor.fsdp_config.model_dtype"] == "fp32"
    assert bf16["actor_rollout_ref.actor.fsdp_config.mixed_precision.reduce_dtype"] == "fp32"
