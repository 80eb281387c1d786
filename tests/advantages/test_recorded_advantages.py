"""Advantages are, bit for bit, the recorded ones: soft, hard, exclusion, rewards that are not finite, single leaves."""

import json

from recorded_advantages import FILE, cases, written

from arpo_verl.algorithms.arpo import compute_arpo_advantage


def test_the_advantages_of_recorded_trees_are_the_recorded_ones():
    recorded = [json.loads(line) for line in FILE.read_text().splitlines()]
    computed = [settings | {"advantages": written(compute_arpo_advantage(**given)[0])} for settings, given in cases()]
    assert len(computed) == len(recorded) == 96
    for one, other in zip(computed, recorded, strict=True):
        assert one == other
