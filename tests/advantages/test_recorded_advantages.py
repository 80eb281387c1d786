"""Advantages are the recorded ones: soft, hard, exclusion, rewards that are not finite, single leaves."""

import json

import pytest
import torch
from recorded_advantages import FILE, cases, read, written

from arpo_verl.algorithms.arpo import compute_arpo_advantage

RECORDED = [json.loads(line) for line in FILE.read_text().splitlines()]


def test_the_advantages_of_recorded_trees_are_the_recorded_ones():
    """To the last places: processors add up the leaves of a group in different orders."""
    computed = [settings | {"advantages": written(compute_arpo_advantage(**given)[0])} for settings, given in cases()]
    assert len(computed) == len(RECORDED) == 96
    for one, other in zip(computed, RECORDED, strict=True):
        assert one | {"advantages": None} == other | {"advantages": None}
        assert one["advantages"][0] == other["advantages"][0]
        expected = read(other["advantages"])
        last_place = torch.finfo(torch.float32 if "32" in other["advantages"][0] else torch.float64).eps
        torch.testing.assert_close(
            read(one["advantages"]), expected, rtol=0, atol=4 * last_place * expected.abs().max().item()
        )


@pytest.mark.parametrize("settings", [0, 95])
def test_a_recorded_text_is_read_as_what_was_written(settings):
    text = RECORDED[settings]["advantages"]
    kind = torch.float32 if "32" in text[0] else torch.float64
    assert written(read(text).to(kind)) == text
