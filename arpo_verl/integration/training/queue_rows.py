"""What TransferQueue holds when a run ends, made fit for the run that goes on from it.

verl 0.9.1 saves the queue in the modes other than `sync` (`trainer/ppo/v1/trainer_base.py`, `_save_checkpoint`) at the
end of a step, when it holds whole prompts. At another moment it holds more: leaves whose prompt has been taken out to
train on them, prompts of a validation, and prompts that have failed.
"""

from arpo_verl.integration.queue import put_tags, read_tags, remove_rows
from arpo_verl.integration.row_key import prompt_of
from arpo_verl.integration.training.lost_leaves import FAILURE

VALIDATION = "val"


def keep_what_a_resumed_run_can_use(partition_id: str, are_leaves_bad: bool) -> None:
    """Remove validation and leaves that belong to no prompt, and have failed prompts asked again.

    Args:
        partition_id: of the training prompts.
        are_leaves_bad: finished prompts are asked again too.
    """
    tags = read_tags(partition_id)
    prompts = {key for key, of_row in tags.items() if of_row.get("is_prompt")}
    remove_rows(list(read_tags(VALIDATION)), VALIDATION)
    remove_rows([key for key in tags if key not in prompts and prompt_of(key) not in prompts], partition_id)
    ended = {"failure", "finished"} if are_leaves_bad else {"failure"}
    # The run that goes on clears the leaves of pending prompts and grows them anew (`_reissue_inflight_prompts`).
    again = [key for key in prompts if tags[key].get("status") in ended]
    if again:
        put_tags(partition_id, {key: {**tags[key], "status": "pending", FAILURE: ""} for key in again})
