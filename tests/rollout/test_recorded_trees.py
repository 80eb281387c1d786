"""The same seed gives the tree that it gave before branching rules became exchangeable, for every old setting."""

import json
from pathlib import Path

from recorded_trees import digest, settings

RECORDED = Path(__file__).parents[1] / "shared" / "recorded_trees.json"


def test_every_old_setting_gives_the_recorded_tree_and_the_recorded_requests():
    recorded = json.loads(RECORDED.read_text())
    differing = [setting for setting, expected in zip(settings(), recorded, strict=True) if digest(setting) != expected]
    assert differing == []
