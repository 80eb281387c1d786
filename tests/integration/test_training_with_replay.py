"""Real training with replay: verl with its V1 trainer, Ray, TransferQueue, FSDP2 and a real vLLM engine, on CPU."""

import math
import shutil
from pathlib import Path

import pytest
from runs import LEAVES, PROMPTS, train

from arpo_verl.record import read_step

pytestmark = [pytest.mark.slow, pytest.mark.engine]

STEPS = 3


def overrides(steps: int, good: int) -> list[str]:
    """A run over the same few prompts in each step, of which the first `good` answers are right."""
    reward = "reward.custom_reward_function"
    return [
        "algorithm.adv_estimator=arpo",
        "+arpo.replay=own",
        "+arpo.replay_kwargs={success:1.0}",
        f"{reward}.path={Path(__file__).parent / 'forgetful_reward.py'}",
        f"+{reward}.reward_kwargs.good={good}",
        f"data.train_max_samples={PROMPTS}",
        "data.seed=1",
        "trainer.total_epochs=10",
        f"trainer.total_training_steps={steps}",
        "trainer.save_freq=1",
    ]


def replayed(folder: Path, step: int) -> list[tuple[str, str, float]]:
    """Return prompt, response and reward of a step's replayed rows."""
    rows = list(read_step(folder / "rollouts" / f"{step}.jsonl").rows())
    assert len(rows) == PROMPTS * LEAVES
    replayed = [(prompt, leaf) for prompt, leaf in rows if leaf.replayed_step is not None]
    return sorted((prompt.text, prompt.output_of(leaf), leaf.reward) for prompt, leaf in replayed)


def outputs(folder: Path, step: int) -> set[tuple[str, str]]:
    rows = read_step(folder / "rollouts" / f"{step}.jsonl").rows()
    return {(prompt.text, prompt.output_of(leaf)) for prompt, leaf in rows}


def test_groups_that_fail_get_a_stored_success_and_a_resumed_run_gives_them_the_same(world, tmp_path):
    whole = tmp_path / "whole"
    steps = train(world, whole, *overrides(STEPS, good=PROMPTS * LEAVES))
    first, *others = steps
    assert first["replay/used"] == 0 and first["replay/kept"] == PROMPTS * LEAVES
    assert replayed(whole, 1) == []
    for number, step in enumerate(others, start=2):
        # All leaves have failed, and each group has a success in the place of one of them.
        assert (step["replay/used"], step["replay/helped_fraction"], step["replay/flat_fraction"]) == (PROMPTS, 1, 1)
        assert (step["replay/age"], step["replay/kept"], step["replay/refused"]) == (number - 1, 0, 0)
        assert step["arpo/leaves/min"] == step["arpo/leaves/max"] == LEAVES
        # Means over what was sampled are without the replayed rows, and so is the comparison of the two engines.
        assert step["critic/score/mean"] == step["replay/grown_reward"] == 0
        assert step["training/rollout_actor_probs_pearson_corr"] > 0.999
        # Of three failed leaves of four the advantage is -1/2, with which the group trains.
        assert step["critic/advantages/mean"] == pytest.approx(-0.5, abs=1e-4)
        assert step["actor/grad_norm"] > 0 and math.isfinite(step["actor/pg_loss"])
        rows = replayed(whole, number)
        assert len(rows) == PROMPTS and {score for _, _, score in rows} == {1.0}
        assert {(prompt, response) for prompt, response, _ in rows} <= outputs(whole, 1)

    again = tmp_path / "again"
    kept = again / "checkpoints"
    kept.mkdir(parents=True)
    for step in (1, 2):
        shutil.copytree(whole / "checkpoints" / f"global_step_{step}", kept / f"global_step_{step}")
    (kept / "latest_checkpointed_iteration.txt").write_text("2")
    [last] = train(world, again, *overrides(STEPS, good=0))
    assert last["training/global_step"] == STEPS
    assert replayed(again, STEPS) == replayed(whole, STEPS)
    # There was something to choose from.
    assert last["replay/stored"] == steps[-1]["replay/stored"] > PROMPTS
