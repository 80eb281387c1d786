"""Real runs with packed rows: the same steps as without, to the last digits of float32."""

import math
from pathlib import Path
from typing import Any

import pytest
from runs import seeded_grpo, train

pytestmark = [pytest.mark.slow, pytest.mark.engine, pytest.mark.nightly]

STEPS = 3
DYNAMIC = [
    "actor_rollout_ref.actor.use_dynamic_bsz=True",
    "actor_rollout_ref.actor.ppo_max_token_len_per_gpu=1024",
    "actor_rollout_ref.rollout.log_prob_use_dynamic_bsz=True",
    "actor_rollout_ref.rollout.log_prob_max_token_len_per_gpu=1024",
    "actor_rollout_ref.ref.log_prob_use_dynamic_bsz=True",
    "actor_rollout_ref.ref.log_prob_max_token_len_per_gpu=1024",
]
TERMS = ["actor_rollout_ref.actor.use_kl_loss=True", "actor_rollout_ref.actor.entropy_coeff=0.01"]
LOCKSTEP = ["algorithm.adv_estimator=arpo", "+arpo.schedule=lockstep", "data.seed=1"]
TWO_MINI_BATCHES = ["actor_rollout_ref.actor.ppo_mini_batch_size=2"]
TWO_RANKS = ["trainer.n_gpus_per_node=2", "ray_kwargs.ray_init.num_gpus=2"]
LEARNT = ("actor/loss", "actor/pg_loss", "actor/grad_norm", "actor/kl_loss", "actor/entropy", "critic/rewards/mean")


def steps_of(world: Path, folder: Path, mode: str, *overrides: str, **environment: str) -> list[dict[str, Any]]:
    mode_and_steps = [f"+arpo.pack_trees={mode}", f"trainer.total_training_steps={STEPS}"]
    return train(world, folder / mode, *DYNAMIC, *TERMS, *overrides, *mode_and_steps, **environment)


def assert_alike(rows: list[dict[str, Any]], packed: list[dict[str, Any]], factor: float = 1.1) -> None:
    """The steps have learnt the same, and those that are packed have computed fewer tokens.

    How much fewer is up to the trees that were sampled; that hardly any was computed twice is up to the packing.
    """
    assert len(rows) == len(packed) == STEPS
    for one, other in zip(rows, packed, strict=True):
        assert "actor/pack/factor" not in one
        assert other["actor/pack/row_tokens"] > factor * other["actor/pack/computed_tokens"]
        assert other["actor/pack/computed_tokens"] < 1.05 * other["actor/pack/unique_tokens"]
        assert one["actor/grad_norm"] > 0
        differences = {
            name: (one[name], other[name])
            for name in LEARNT
            # The KL term takes small differences of numbers near 1.
            if not math.isclose(one[name], other[name], rel_tol=1e-4, abs_tol=1e-5)
        }
        assert differences == {}


def test_two_mini_batches_learn_the_same_packed_and_as_rows(world, tmp_path):
    runs = [steps_of(world, tmp_path, mode, *LOCKSTEP, *TWO_MINI_BATCHES) for mode in ("off", "on")]
    assert_alike(*runs)


def test_one_mini_batch_learns_the_same_packed_and_as_rows(world, tmp_path):
    assert_alike(*[steps_of(world, tmp_path, mode, *LOCKSTEP) for mode in ("off", "on")])


def test_two_ranks_learn_the_same_packed_and_as_rows(world, tmp_path):
    assert_alike(*[steps_of(world, tmp_path, mode, *LOCKSTEP, *TWO_RANKS) for mode in ("off", "on")])


def test_rows_of_grpo_share_their_prompts(world, tmp_path):
    overrides, variables = seeded_grpo(tmp_path)
    rows, packed = (steps_of(world, tmp_path, mode, *overrides, **variables) for mode in ("off", "on"))
    assert_alike(rows, packed, factor=1.05)
