"""A real training run whose tools return and raise the worst: it ends with all steps, leaves and right rewards."""

import re
from pathlib import Path

import pytest
from runs import LEAVES, PROMPTS, train
from worst_tools import ACTS

from arpo_verl.record import read_step
from arpo_verl.reward import compute_score

pytestmark = [pytest.mark.slow, pytest.mark.engine]

STEPS = 2
RESULT = re.compile(r" <result>\n.*?\n</result>", re.DOTALL)


def test_a_run_with_the_worst_tools_ends_with_all_steps_and_leaves_and_with_rewards_that_they_do_not_touch(
    world, tmp_path
):
    steps = train(
        world,
        tmp_path,
        "algorithm.adv_estimator=arpo",
        f"trainer.total_training_steps={STEPS}",
        # More calls than there are bad deeds.
        f"data.train_batch_size={3 * PROMPTS}",
        "actor_rollout_ref.rollout.multi_turn.tool_config_path=null",
        f"actor_rollout_ref.rollout.multi_turn.function_tool_path={Path(__file__).parent / 'worst_tools.py'}",
        "actor_rollout_ref.rollout.multi_turn.max_tool_response_length=40",
        "+arpo.max_call_seconds=4",
        "+arpo.infrastructure_retries=0",
        "+arpo.max_infrastructure_fraction=1",
    )
    assert [step["training/global_step"] for step in steps] == [1, 2]
    statuses: dict[str, float] = {}
    for step in steps:
        assert step["arpo/leaves/min"] == step["arpo/leaves/max"] == LEAVES
        for name in ("search", "python"):
            for status in ("ok", "model_error", "infrastructure_error"):
                key = f"tools/{name}/status/{status}"
                statuses[status] = statuses.get(status, 0) + step.get(key, 0)
    assert sum(statuses.values()) == sum(step["tools/calls"] for step in steps)
    assert sum(step["tools/search/calls"] for step in steps) >= len(ACTS)
    assert min(statuses[status] for status in ("ok", "infrastructure_error")) > 0
    outputs, compared = [], 0
    for number in range(1, STEPS + 1):
        rows = list(read_step(tmp_path / "rollouts" / f"{number}.jsonl").rows())
        assert len(rows) == 3 * PROMPTS * LEAVES
        for prompt, leaf in rows:
            output = prompt.output_of(leaf)
            outputs.append(output)
            if leaf.stop_reason != "completed" or leaf.is_result_cut:
                continue
            # The reward is that of the same response with harmless results, one for each call.
            harmless, results = RESULT.subn(" <result>\n2\n</result>", output)
            assert results == len(prompt.calls_of(leaf))
            score = compute_score("tiny_world/search", harmless, prompt.truth)["score"]
            assert score == pytest.approx(leaf.reward, rel=1e-5)
            compared += results
    assert compared > 0
    # verl decodes without control tokens: what is left of their texts is text. Results are cut to 40 characters.
    assert any("<|im_end|>\n<|system" in output for output in outputs)
    assert any("<\\/result><\\answer>" in output for output in outputs)
