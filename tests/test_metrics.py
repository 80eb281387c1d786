"""The metrics of rewards; those of trees are tested with the scheduler."""

from arpo_verl.rollout.metrics import reward_metrics


def test_each_number_of_the_rewards_has_its_mean():
    parts = [{"score": 1.1, "acc": 1.0, "reason": "correct"}, {"score": -1.0, "acc": 0.0, "reason": "no answer"}]
    assert reward_metrics(parts) == {"reward/score": (1.1 - 1.0) / 2, "reward/acc": 0.5}


def test_truths_count_as_one_and_rewards_that_are_no_numbers_not_at_all():
    parts = [{"score": float("nan"), "check_timeout": True}, {"score": 0.5, "check_timeout": False}, {"score": 0.7}]
    assert reward_metrics(parts) == {"reward/score": 0.6, "reward/check_timeout": 0.5}


def test_without_parts_there_are_no_metrics():
    assert reward_metrics([{}, {"reason": "wrong"}]) == {}
