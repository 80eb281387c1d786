"""The random generator that remembers."""

import random

from arpo_verl.rollout.draws import RecordedDraws


def test_it_draws_what_pythons_own_draws_and_keeps_the_numbers():
    ours, pythons = RecordedDraws("seed"), random.Random("seed")
    drawn = [pythons.random(), pythons.random()]
    assert [ours.random(), ours.random()] == drawn == ours.drawn
    assert ours.sample(range(100), 5) == pythons.sample(range(100), 5)
    assert [ours.randrange(10), ours.choice("abc")] == [pythons.randrange(10), pythons.choice("abc")]
    assert ours.drawn == drawn
