"""Episodes of environments: real worlds of gymnasium, copied deep, and games in processes, replayed."""

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from piped_worlds import Drifting, PipedGame, Unseeded

from arpo_tools import ArgumentError
from arpo_tools.environment import Branching, CannotBranchError, Episode, Observation, open_world

LAKE = {"environment": "gymnasium", "id": "FrozenLake-v1", "is_slippery": False}
TAXI = {"environment": "gymnasium", "id": "Taxi-v4"}
TO_THE_GOAL = ["down", "down", "right", "right", "down", "right"]


def test_a_lake_is_crossed_in_words():
    episode = open_world(**LAKE).begin()
    assert episode.now == Observation("[S]FFF\nFHFH\nFFFH\nHFFG")
    shown = [episode.act(action) for action in TO_THE_GOAL]
    assert shown[0].text == "SFFF\n[F]HFH\nFFFH\nHFFG"
    assert [one.reward for one in shown] == [0, 0, 0, 0, 0, 1]
    assert [one.is_over for one in shown] == [False] * 5 + [True]
    assert episode.total_reward == 1
    with pytest.raises(ArgumentError, match="the episode is over"):
        episode.act("left")
    episode.close()


def test_a_taxi_is_described_with_what_its_drawing_tells_by_colours():
    episode = open_world(**TAXI, seed=3).begin()
    assert re.fullmatch(
        r"The taxi is at row \d, column \d. The passenger waits at [RGYB] at row \d, column \d and wants to [RGYB] at "
        r"row \d, column \d. Rows grow to the south, columns to the east.",
        episode.now.text,
    )
    assert episode.act("pickup").reward == -10


@pytest.mark.parametrize("word", ["right", "Right", " RIGHT. ", "'right'", "2"])
def test_an_action_is_known_by_its_name_or_its_number(word):
    assert open_world(**LAKE).begin().act(word).text.startswith("S[F]FF")


@pytest.mark.parametrize("word", ["jump", "", "4", "-1", "right left"])
def test_what_is_no_action_is_the_models_error_and_changes_nothing(word):
    episode = open_world(**LAKE).begin()
    with pytest.raises(ArgumentError, match="expected one of left, down, right, up"):
        episode.act(word)
    assert episode.actions == []
    assert episode.act("right").text.startswith("S[F]FF")


def test_other_worlds_of_the_registry_show_their_drawing_or_their_numbers():
    cliff = open_world("gymnasium", id="CliffWalking-v1").begin()
    assert cliff.now.text.splitlines()[-1] == "x  C  C  C  C  C  C  C  C  C  C  T"
    assert cliff.act("up").text.splitlines()[2].startswith("x  o")
    cards = open_world("gymnasium", id="Blackjack-v1", seed=1).begin()
    assert re.fullmatch(r"\(.*\)", cards.now.text)
    assert cards.act("stick").is_over


def test_the_seed_and_further_arguments_of_an_episode_come_before_the_worlds():
    world = open_world("gymnasium", id="Taxi-v4", seed=1)
    assert world.begin().now == world.begin(1).now
    assert len({world.begin(seed).now for seed in range(8)}) > 3
    assert open_world(**LAKE).begin(desc=["SG", "FF"]).now.text == "[S]G\nFF"


@settings(max_examples=30, deadline=None)
@given(
    before=st.lists(st.sampled_from(["left", "down", "right", "up"]), max_size=6),
    branches=st.lists(st.lists(st.integers(0, 3), min_size=1, max_size=6), min_size=2, max_size=4),
    seed=st.integers(0, 100),
    branching=st.sampled_from(["auto", "copy", "replay"]),
)
def test_branches_of_a_slippery_lake_go_their_own_ways_from_one_observation(before, branches, seed, branching):
    def acted(episode: Episode, actions) -> list[Observation]:
        return [episode.act(str(one)) for one in actions if not episode.now.is_over]

    world = open_world("gymnasium", id="FrozenLake-v1", seed=seed, branching=branching)
    trunk = world.begin()
    acted(trunk, before)
    episodes = [trunk.fork() for _ in branches]
    forked_from = list(trunk.observations)
    for episode, branch in zip(episodes, branches, strict=True):
        assert episode.observations == forked_from
        acted(episode, branch)
        # Whatever the others do: what one sees is what one alone would have seen with the same actions.
        alone = world.begin()
        assert acted(alone, episode.actions) == episode.observations[1:]
    assert trunk.observations == forked_from
    for episode in (trunk, *episodes):
        episode.close()


def played(kind: type, branching: Branching, *actions: str) -> Episode:
    episode = Episode(kind, 7, branching)
    for action in actions:
        episode.act(action)
    return episode


@pytest.mark.parametrize("branching", [Branching.AUTO, Branching.REPLAY])
def test_a_game_that_cannot_be_copied_is_played_again_up_to_the_fork(branching):
    here = played(PipedGame, branching, "forth", "forth", "back")
    there = here.fork()
    assert there.observations == here.observations
    # The dice go on as they would have, in a process of their own.
    assert there.act("back").text == here.act("back").text
    there.act("forth")
    here.act("back")
    assert (there.now.text[:5], here.now.text[:5]) == ("at 1,", "at -1")
    assert here._environment.process.pid != there._environment.process.pid
    here.close()
    there.close()
    assert [one._environment.process.returncode for one in (here, there)] == [0, 0]


def test_a_game_that_cannot_be_copied_is_refused_where_it_may_only_be_copied():
    episode = played(PipedGame, Branching.COPY, "forth")
    with pytest.raises(CannotBranchError, match="the environment can't be copied: TypeError"):
        episode.fork()
    episode.close()


@pytest.mark.parametrize(("kind", "actions"), [(Unseeded, 0), (Drifting, 1)])
def test_a_replay_that_shows_something_else_is_refused_and_leaves_no_process(kind, actions):
    made = []

    class Noted(kind):
        def __init__(self) -> None:
            super().__init__()
            made.append(self)

    episode = played(Noted, Branching.AUTO, "forth")
    with pytest.raises(CannotBranchError, match=f"a replay with the seed 7 has shown .* after {actions} actions"):
        episode.fork()
    assert len(made) == 2
    assert made[1].process.returncode == 0
    episode.act("forth")
    episode.close()


def test_an_environments_own_fork_comes_first_and_must_not_return_itself():
    class Own:
        def __init__(self) -> None:
            self.forks = 0

        def reset(self, seed):
            return "start"

        def step(self, action):
            return action

        def fork(self):
            self.forks += 1
            return self if self.forks == 2 else Own()

    episode = Episode(Own, 0, Branching.AUTO)
    other = episode.fork()
    assert other._environment.forks == 0
    with pytest.raises(CannotBranchError, match="is the environment itself"):
        episode.fork()
    with pytest.raises(CannotBranchError, match="never"):
        Episode(Own, 0, Branching.NEVER).fork()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"environment": "nothing"}, "expected gymnasium, or a dotted path"),
        ({"environment": "piped_worlds.Nothing"}, "has no 'Nothing'"),
        ({"environment": "piped_worlds.random"}, "has no reset and no step"),
        ({"environment": "piped_worlds.Headless"}, "no episode can be begun .* OSError: no display"),
        ({"environment": "piped_worlds.PipedGame", "width": 3}, "unexpected keyword argument 'width'"),
        ({**LAKE, "branching": "perhaps"}, "branching='perhaps'; expected one of auto, copy, replay, never"),
        ({"environment": "gymnasium", "id": "NoSuchWorld-v0"}, "NoSuchWorld"),
        ({"environment": "gymnasium", "id": "MountainCarContinuous-v0"}, "expected numbered ones"),
        ({**LAKE, "actions": ["left", "right"]}, "expected 4 names"),
    ],
)
def test_a_world_that_can_not_be_made_says_why(options, message):
    with pytest.raises(ValueError, match=message):
        open_world(**options)


def test_two_branches_that_do_the_same_on_slippery_ice_see_the_same():
    trunk = open_world("gymnasium", id="FrozenLake-v1", seed=random.Random(1).randint(0, 99)).begin()
    one, two = trunk.fork(), trunk.fork()
    assert [one.act("right") for _ in range(1)] == [two.act("right") for _ in range(1)]
