"""verl's engine computes packed rows as it computes rows, and says so where it can't."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import packed_cases
import pytest

TOLERANCE = 1e-5
"""Of outputs, loss and gradients in float32, relative to the largest."""


@pytest.fixture(scope="module")
def results(tmp_path_factory) -> dict[str, list[dict[str, Any]]]:
    """All cases, computed one after the other by one program."""
    folder = tmp_path_factory.mktemp("packed")
    environment = {**os.environ, "VERL_PLATFORM": "cpu", "OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, packed_cases.__file__, str(folder)], check=True, env=environment)
    return json.loads(Path(folder, "results.json").read_text())


@pytest.mark.slow
@pytest.mark.parametrize("name", packed_cases.CASES)
def test_packed_trees_have_the_outputs_the_loss_and_the_gradient_of_their_rows(results, name):
    case = packed_cases.CASES[name]
    assert len(results[name]) == case.ranks
    for of_rank in results[name]:
        assert of_rank.pop("factor") > 1.2
        expected = {"values"} if case.model_type == "value_model" else {"log_probs", "entropy"}
        assert of_rank.keys() >= {*expected, "loss", "gradient"}
        assert max(of_rank.values()) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", packed_cases.WRONG)
def test_what_is_packed_wrong_is_off_by_far_and_refused_by_the_trial(results, name):
    [found] = results[name]
    said = found.pop("said")
    assert "arpo.pack_trees=on, and trees can't be packed: the model's log_probs of packed rows are off by" in said
    assert max(found.values()) > 1000 * TOLERANCE


@pytest.mark.slow
def test_no_rank_packs_where_one_can_not_and_none_waits_for_another(results):
    able, unable = results[packed_cases.APART]
    assert [able.pop("is_packed"), unable.pop("is_packed")] == [False, False]
    assert "another rank can't, and says why" in able["said"]
    assert "rows have different temperatures" in unable["said"]
