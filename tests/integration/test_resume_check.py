"""A run that is to resume finds its checkpoint, or ends before it starts, with what was found."""

import json
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from arpo_verl.preflight.resume_check import check_resume


def save(run: Path, step: int, ranks: int = 1, lost: int = 0) -> None:
    """Write the files of a step; `lost` ranks have not written theirs."""
    actor = run / f"global_step_{step}" / "actor"
    (actor / "huggingface").mkdir(parents=True)
    for rank in range(ranks - lost):
        torch.save({}, actor / f"model_world_size_{ranks}_rank_{rank}.pt")
    (actor / "fsdp_config.json").write_text(json.dumps({"world_size": ranks}))
    (actor / "huggingface" / "config.json").write_text("{}")
    (actor / "huggingface" / "tokenizer.json").write_text("{}")


def check(run: Path, mode: str = "auto", path: Path | None = None, **trainer) -> None:
    names = {"resume_mode": mode, "default_local_dir": str(run), "resume_from_path": path and str(path), "nnodes": 1}
    actor = {"strategy": "fsdp2"}
    check_resume(OmegaConf.create({"trainer": names | trainer, "actor_rollout_ref": {"actor": actor}}))


def refusal(run: Path, *args, **kwargs) -> str:
    with pytest.raises(ValueError) as caught:
        check(run, *args, **kwargs)
    return str(caught.value)


def track(run: Path, content: str) -> None:
    (run / "latest_checkpointed_iteration.txt").write_bytes(content.encode("utf-8", "surrogateescape"))


def test_a_new_run_and_a_whole_checkpoint_pass(tmp_path):
    check(tmp_path / "new")
    save(tmp_path, 3, ranks=2)
    track(tmp_path, "3\n")
    check(tmp_path)
    check(tmp_path, "resume_path", tmp_path / "global_step_3")
    check(tmp_path, "disable")


@pytest.mark.parametrize(
    "content",
    ["", " ", "abc", "-3", "3.0", "1e3", "global_step_3", "３", "²", "3 4", "\x00", "\udcff\udcfe", "nan", "None",
     "0x3", "3\n4", "<html>", "x" * 10_000],
)  # fmt: skip
def test_garbage_for_the_last_step_is_refused_with_what_was_found_and_the_newest_whole_step(tmp_path, content):
    save(tmp_path, 2)
    save(tmp_path, 10)
    save(tmp_path, 11, ranks=2, lost=1)
    track(tmp_path, content)
    said = refusal(tmp_path)
    assert "latest_checkpointed_iteration.txt: expected the number of a step, and the file says" in said
    assert "write 10 into the file to go on from step 10, the newest that is whole" in said
    assert len(said) < 1000


def test_a_missing_folder_is_refused_instead_of_a_start_at_step_1_over_the_old_ones(tmp_path):
    save(tmp_path, 4)
    track(tmp_path, "7")
    said = refusal(tmp_path)
    assert "there is no folder global_step_7" in said and "write 4 into the file" in said


def test_a_step_that_lacks_a_shard_or_has_a_truncated_one_is_refused(tmp_path):
    save(tmp_path, 4)
    save(tmp_path, 5, ranks=2, lost=1)
    track(tmp_path, "5")
    assert "model_world_size_2_rank_1.pt" in refusal(tmp_path) and "write 4" in refusal(tmp_path)
    save(tmp_path, 6)
    shard = tmp_path / "global_step_6" / "actor" / "model_world_size_1_rank_0.pt"
    shard.write_bytes(shard.read_bytes()[:100])
    track(tmp_path, "6")
    assert "is truncated" in refusal(tmp_path)


def test_without_any_whole_step_the_advice_is_to_start_anew(tmp_path):
    track(tmp_path, "5")
    assert "no step is whole here: remove the file to start anew" in refusal(tmp_path)


def test_a_path_to_resume_from_that_is_not_there_is_refused(tmp_path):
    assert "name another step's folder" in refusal(tmp_path, "resume_path", tmp_path / "global_step_3")


def test_shards_on_other_machines_are_not_looked_for(tmp_path):
    save(tmp_path, 5, ranks=2, lost=1)
    track(tmp_path, "5")
    check(tmp_path, nnodes=2)
