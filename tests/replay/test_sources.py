"""What each source keeps and chooses, with numbers worked out by hand; a run that goes on chooses the same."""

import math
import random

import numpy as np
import pytest
from replay_examples import context, group, row

from arpo_verl.named_parts import REPLAY
from arpo_verl.replay import ReplaySource, State, Use, build_source
from arpo_verl.replay.store.files import read_rows, write_rows
from arpo_verl.replay.store.group import task_digest

FAILED = (0, 0, 0, 0)


def own(**settings) -> ReplaySource:
    return build_source("own", {"success": 1.0} | settings, context())


def test_a_stored_success_replaces_one_leaf_of_a_group_that_fails():
    source, success = own(), row("t", step=1)
    source.finish([success], [0.25], 1)
    [use] = source.choose([group(*FAILED), group(*FAILED, task="other"), group(1, 0, 0, 0)], 3)
    assert use == Use(success, group(*FAILED).leaves[3], advantage=None, old_log_prob="current", weight=1.0, age=2)
    # ARPO-GUI's example: rewards (1, 0, 0, 0) after it, z with n - 1.
    rewards = np.array([use.row.reward, 0, 0, 0])
    assert ((rewards - rewards.mean()) / rewards.std(ddof=1)).tolist() == [1.5, -0.5, -0.5, -0.5]


def test_what_another_source_or_success_has_kept_is_looked_at_again_when_a_run_goes_on():
    source = own()
    source.load(State([row("t", reward=0.2), row("t", reward=1.0, ids=(1, 2))]))
    assert source.metrics() == {"stored": 1, "tasks": 1}
    build_source("self_imitation", {"rows": 4}, context()).load(State([row("t")]))


def test_what_reaches_the_success_is_kept_and_nothing_else():
    assert [own().keeps(reward, 5.0) for reward in (0.99, 1.0, 1.1, math.nan)] == [False, True, True, False]


def test_a_success_is_put_into_every_group_with_a_failed_leaf_where_it_is_always_done():
    source = own(trigger="always", weight=0.5)
    source.finish([row("t")], [], 1)
    [use] = source.choose([group(1, 0, 0.5, 1)], 2)
    assert (use.replaces.number, use.weight) == (2, 0.5)
    assert source.choose([group(1, 1, 1, 1)], 2) == []


def test_a_success_above_the_age_limit_is_not_used():
    source = own(max_age=2)
    source.finish([row("t", step=1)], [], 1)
    assert len(source.choose([group(*FAILED)], 3)) == 1
    assert source.choose([group(*FAILED)], 4) == []


def test_eight_successes_of_a_task_are_kept_and_one_of_them_is_drawn():
    source = own()
    for number in range(20):
        source.finish([row("t", step=number, ids=(number, 1, 2))], [], number)
    kept = {use.row.step for step in range(20, 200) for use in source.choose([group(*FAILED)], step)}
    assert kept == set(range(12, 20))
    assert source.metrics() == {"stored": 8, "tasks": 1}


def test_the_latest_success_of_a_task_is_used():
    source = build_source("latest", {"success": 1.0}, context())
    for step in (1, 2):
        source.finish([row("t", step=step, ids=(step, 1, 2))], [], step)
    assert source.metrics()["stored"] == 1
    [use] = source.choose([group(*FAILED)], 9)
    assert (use.row.step, use.age) == (2, 7)


def test_what_is_chosen_does_not_depend_on_the_order_in_which_rows_and_groups_come():
    rows = [row(task, ids=(number, 1, 2)) for task in "abc" for number in range(6)]
    groups = [group(*FAILED, task=task) for task in "abcab"]
    chosen = []
    for seed in range(3):
        source = own()
        source.finish(random.Random(seed).sample(rows, len(rows)), [], 1)
        uses = source.choose(random.Random(seed).sample(groups, len(groups)), 5)
        chosen.append(sorted((use.row.task, use.row.digest) for use in uses))
    assert chosen[0] == chosen[1] == chosen[2] and len(chosen[0]) == 5


def imitation(**settings) -> ReplaySource:
    return build_source("self_imitation", {"rows": 1} | settings, context())


def test_rows_with_an_advantage_above_one_are_kept_for_imitation():
    assert [imitation().keeps(1.0, advantage) for advantage in (0.5, 1.0, 1.01)] == [False, False, True]
    by_reward = imitation(least_advantage=None, success=1.0)
    assert [by_reward.keeps(reward, 0.1) for reward in (0.5, 1.0)] == [False, True]
    both = imitation(success=1.0)
    assert [both.keeps(1.0, 2.0), both.keeps(0.5, 2.0), both.keeps(1.0, 0.5)] == [True, False, False]


def test_imitated_rows_have_their_reward_less_the_median_of_group_means_and_spears_weight():
    source, stored = imitation(), row("t", step=45)
    source.finish([stored, row("u", step=45, reward=0.5)], [0, 1, 0.25, 0.75, 0.5], 45)
    [use] = source.choose([], 50)
    assert use.row is stored and use.replaces is None
    assert (use.advantage, use.old_log_prob, use.age) == (0.5, "stored", 5)
    assert use.weight == pytest.approx(0.146447, abs=1e-6)
    assert source.metrics() == {"stored": 2, "tasks": 2, "median": 0.5}


def test_nothing_is_imitated_before_there_are_rows_enough_nor_at_a_weight_of_zero():
    source = imitation(rows=None)  # a mini-batch of 8
    source.finish([row("t", ids=(number, 1, 2)) for number in range(7)], [0.0], 1)
    assert source.choose([], 2) == []
    source.finish([row("t", ids=(7, 1, 2))], [], 2)
    assert source.choose([], 0) == []
    uses = source.choose([], 3)
    assert len({use.row.digest for use in uses}) == 8
    assert source.choose([], 13) == []  # they are too old


def test_the_median_is_of_the_last_group_means_alone():
    source = imitation(baseline_groups=3, weight_steps=0)
    source.finish([row("t")], [0.0, 0.0, 0.0], 1)
    source.finish([], [0.5, 0.75], 2)
    [use] = source.choose([], 3)
    assert (use.advantage, use.weight) == (0.5, 1.0)


TRACES = [
    ([1, 2, 7, 8, 9, 4], [0, 0, 1, 0, 0, 1]),
    ([1, 2, 6], [0, 0, 1]),
    ([3, 3], [0, 0]),  # no answer
    ([5], [1]),  # no prompt
    ([1, 2, *range(10, 19)], [0, 0, *[1] * 9]),  # longer than the response may be
]


def teachers(tmp_path, **settings) -> ReplaySource:
    (tmp_path / "traces.parquet").write_bytes(b"")
    settings = {"file": str(tmp_path / "traces.parquet"), "success": 1.0} | settings
    source = build_source("teachers", settings, context())
    source.begin(context(encode_traces=lambda file: TRACES))
    return source


PROMPT = task_digest([1, 2])


def test_a_trace_replaces_a_leaf_of_its_prompts_group_and_is_compared_with_the_others(tmp_path):
    source = teachers(tmp_path)
    assert source.metrics() == {"stored": 2, "tasks": 1, "too_long": 3}
    [use] = source.choose([group(*FAILED, prompt=PROMPT), group(*FAILED)], 2)
    assert (use.advantage, use.old_log_prob, use.weight) == (1.0, "probability", 1.0)
    assert use.row.scores.tolist()[-1] == use.row.reward == 1.0
    [half] = teachers(tmp_path, mean_below=0.6).choose([group(0.5, 0.5, prompt=PROMPT)], 2)
    assert half.advantage == 0.5


def test_a_traces_results_are_segments_of_their_own(tmp_path):
    rows = {use.row.digest: use.row for step in range(20) for use in teachers(tmp_path).choose(
        [group(*FAILED, prompt=PROMPT)], step)}  # fmt: skip
    long = next(one for one in rows.values() if len(one.response_ids) == 4)
    assert (long.mask.tolist(), long.segments.tolist()) == ([True, False, False, True], [0, 1, 1, 2])
    assert long.prompt_ids.tolist() == [1, 2] and len(rows) == 2


def test_several_traces_of_a_prompt_may_come_and_count_in_the_group_if_they_are_to(tmp_path):
    source = teachers(tmp_path, per_group=3, statistics="group", old_log_prob="current")
    uses = source.choose([group(*FAILED, prompt=PROMPT)], 1)
    assert len({use.row.digest for use in uses}) == len({use.replaces.number for use in uses}) == 2
    assert {(use.advantage, use.old_log_prob) for use in uses} == {(None, "current")}


def test_traces_of_which_none_can_be_used_are_refused(tmp_path):
    source = teachers(tmp_path)
    with pytest.raises(ValueError, match="none of 1 traces can be trained on"):
        build_source("teachers", {"file": str(tmp_path / "traces.parquet"), "success": 1.0}, context()).begin(
            context(encode_traces=lambda file: TRACES[2:3])
        )
    assert source.choose([], 1) == []


def peers(directory, name: str, **settings) -> ReplaySource:
    settings = {"directory": str(directory), "name": name, "success": 1.0} | settings
    return build_source("peers", settings, context())


def test_half_of_a_group_are_leaves_that_a_peer_has_grown(tmp_path):
    one, other = peers(tmp_path, "one"), peers(tmp_path, "other")
    other.finish([row("t", ids=(number, 1, 2), reward=number % 2) for number in range(5)], [], 7)
    one.finish([row("t", ids=(9, 9, 9))], [], 3)
    uses = one.choose([group(1, 0, 1, 0), group(*FAILED, task="u")], 4)
    assert [use.replaces.number for use in uses] == [3, 2]
    assert {use.row.origin for use in uses} == {"other"} and {use.age for use in uses} == {0}
    assert {use.advantage for use in uses} == {None}
    assert one.metrics()["stored"] == 5 and one.metrics()["peers"] == 1
    assert len(peers(tmp_path, "third", foreign=4).choose([group(1, 0, 1, 0)], 1)) == 3  # one own leaf stays


def test_a_group_that_fails_gets_a_peers_success_alone(tmp_path):
    peers(tmp_path, "other").finish([row("t", reward=0.0, ids=(1, 1)), row("t", ids=(2, 2))], [], 1)
    source = peers(tmp_path, "one", trigger="all_failed")
    uses = source.choose([group(*FAILED), group(0, 0, 0, 1)], 1)
    assert [(use.row.reward, use.replaces.number) for use in uses] == [(1.0, 3)]


def test_old_steps_of_a_peer_are_not_used_and_the_peer_removes_them(tmp_path):
    one, other = peers(tmp_path, "one", max_age=2), peers(tmp_path, "other", max_age=2)
    for step in range(1, 6):
        other.finish([row("t", ids=(step, 1))], [], step)
        one.choose([], 100)
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"other_step_{step}.npz" for step in (3, 4, 5)]
    assert one.metrics()["stored"] == 3
    late = peers(tmp_path, "late", max_age=1, foreign=3)
    assert {use.row.step for step in range(9) for use in late.choose([group(*FAILED)], step)} == {4, 5}


def test_files_that_are_no_peers_or_bad_are_left_out_and_break_nothing(tmp_path):
    other = peers(tmp_path, "other")
    other.finish([row("t")], [], 1)
    whole = (tmp_path / "other_step_1.npz").read_bytes()
    (tmp_path / "half_step_1.npz").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "text_step_1.npz").write_text("hello")
    (tmp_path / "folder_step_1.npz").mkdir()
    write_rows(tmp_path / "foreign_step_1.npz", State([row("t")]), "theirs")
    write_rows(tmp_path / "long_step_1.npz", State([row("t", ids=tuple(range(20))), row("t", ids=(8, 8))]), "ours")
    for name in (".other_step_2.npz.x.tmp", "readme.md", "other_step_2.npz.part", "..._step_x.npz"):
        (tmp_path / name).write_bytes(whole)
    source = peers(tmp_path, "one", foreign=3)
    uses = source.choose([group(*FAILED)], 1)
    assert {use.row.origin for use in uses} == {"other", "long"}
    found = source.metrics()
    assert (found["bad_files"], found["bad_rows"], found["stored"]) == (4, 1, 2)
    source.choose([group(*FAILED)], 2)
    assert source.metrics()["bad_files"] == 4  # none is read again


def test_a_directory_that_goes_away_ends_no_run(tmp_path):
    directory = tmp_path / "shared"
    source = peers(directory, "one")
    directory.rmdir()
    source.finish([row("t")], [], 1)
    assert source.choose([group(*FAILED)], 2) == []
    assert (source.metrics()["failed_writes"], source.metrics()["bad_files"]) == (1, 1)


def test_a_directory_or_a_name_that_can_not_be_used_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="can't be written to"):
        peers(tmp_path / "file", "one")
    for name in ("", "a b", "a/b", "a_b"):
        with pytest.raises(ValueError, match=r"arpo\.replay_kwargs\.name="):
            peers(tmp_path, name)


def settings_of(name: str, tmp_path) -> dict:
    (tmp_path / "traces.parquet").write_bytes(b"")
    more = {
        "teachers": {"file": str(tmp_path / "traces.parquet")},
        "peers": {"directory": str(tmp_path), "name": "one"},
    }
    return {"success": 1.0} | more.get(name, {})


@pytest.mark.parametrize("name", REPLAY.names)
def test_a_source_without_a_test_of_success_is_refused(name, tmp_path):
    settings = settings_of(name, tmp_path)
    build_source(name, settings, context())
    none = {"success": None} | ({"least_advantage": None} if name == "self_imitation" else {})
    with pytest.raises(ValueError, match="success"):
        build_source(name, settings | none, context())


@pytest.mark.parametrize("name", REPLAY.names)
@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("success", "high"), ("trigger", "never"), ("std_below", math.nan), ("capacity", 0), ("max_age", 0),
        ("old_log_prob", "none"), ("weight", True), ("per_task", 1.5), ("foreign", 0), ("publish", "some"),
        ("statistics", "all"), ("per_group", 0), ("rows", 0), ("weight_steps", -1), ("baseline_groups", 0),
        ("least_advantage", "high"),
    ],
)  # fmt: skip
def test_a_bad_setting_is_refused_by_name(name, setting, value, tmp_path):
    try:
        build_source(name, settings_of(name, tmp_path) | {setting: value}, context())
    except ValueError as error:
        assert f"arpo.replay_kwargs.{setting}" in str(error)
    else:
        pytest.fail(f"{setting}={value} was accepted")


def test_settings_that_are_missing_or_do_not_go_together_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"arpo\.replay=peers needs the settings \['directory', 'name'\]"):
        build_source("peers", {"success": 1.0}, context())
    with pytest.raises(ValueError, match="there is no such file"):
        build_source("teachers", {"success": 1.0, "file": str(tmp_path / "no.parquet")}, context())
    with pytest.raises(ValueError, match="expected at least the 8 rows that a step draws"):
        build_source("self_imitation", {"capacity": 7, "rows": 8}, context())
    with pytest.raises(ValueError, match=r"old_log_prob='stored'; expected one of probability, current"):
        teachers(tmp_path, old_log_prob="stored")


@pytest.mark.parametrize(("name", "kwargs"), [
    ("own", {"success": 1.0, "max_age": 4}),
    ("latest", {"success": 1.0}),
    ("self_imitation", {"rows": 2, "weight_steps": 10}),
])  # fmt: skip
@pytest.mark.parametrize("at", [1, 4])
def test_a_run_that_goes_on_from_a_checkpoint_chooses_as_one_that_has_not_stopped(name, kwargs, at, tmp_path):
    def steps(source: ReplaySource, numbers: range) -> list:
        chosen = []
        for step in numbers:
            generator = random.Random(step)
            groups = [group(*FAILED, task=task) for task in "abc"]
            uses = source.choose(groups, step)
            chosen.append([(use.row.task, use.row.digest, use.advantage, use.weight, use.age) for use in uses])
            rows = [row(generator.choice("abc"), step=step, ids=(generator.randrange(9), 1, 2)) for _ in range(4)]
            source.finish(rows, [generator.random() for _ in groups], step)
        return chosen

    whole = steps(build_source(name, kwargs, context()), range(1, 9))
    first, second = build_source(name, kwargs, context()), build_source(name, kwargs, context())
    steps(first, range(1, at + 1))
    write_rows(tmp_path / "store.npz", first.state(), "ours")
    second.load(read_rows(tmp_path / "store.npz", "ours"))
    assert steps(second, range(at + 1, 9)) == whole[at:]
    assert sum(map(len, whole[at:])) > 5
