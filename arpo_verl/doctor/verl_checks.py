"""The doctor's checks that need torch or verl, which are imported stage by stage and not with this module."""

import importlib
import os
import re
import tempfile
import traceback
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from arpo_verl.doctor.data import model_problem, weight_files
from arpo_verl.doctor.finding import UNSET, DoctorCheck, DoctorInput, Finding, Stage, Status
from arpo_verl.integration.rollout.chat_template import chat_prefix, plain_json
from arpo_verl.integration.settings import CPU_OVERRIDES, ESTIMATOR, RunParts
from arpo_verl.named_parts import ADVANTAGES, LOSSES, RULES, SERVERS
from arpo_verl.preflight import checks as preflight
from arpo_verl.preflight.rollout_checks import check_estimator, no_branching
from arpo_verl.preflight.tag_check import OUR_REWARD, check_tags
from arpo_verl.preflight.tool_check import load_tools
from arpo_verl.preflight.tool_list import other_entries, tool_file
from arpo_verl.reward.prefill import RESPONSE_PREFIX

MODEL = "actor_rollout_ref.model.path"
REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""A model's name on the Hugging Face hub."""
GIB = 1 << 30


def verl_stages(doctor_input: DoctorInput) -> list[Stage]:
    """Return the checks of what torch sees, and of what verl makes of the configuration."""
    later = [
        DoctorCheck("plug-in", check_plugin),
        DoctorCheck("settings", partial(check_settings, doctor_input.config)),
        DoctorCheck("model", partial(check_model, doctor_input)),
        DoctorCheck("other tools", partial(check_other_tools, doctor_input.config)),
    ]
    return [
        Stage([DoctorCheck("devices", partial(check_devices, doctor_input))], _load_torch),
        Stage(later, _load_verl),
    ]


def _load_torch() -> None:
    importlib.import_module("torch")


VERL_MODULES = (
    "verl",
    "verl.experimental.agent_loop",
    "verl.tools.tool_registry",
    "verl.trainer.ppo.core_algos",
    "verl.utils.config",
    "verl.utils.import_utils",
    "verl.workers.config",
    "transformers",
    "transformers.models.auto",
    "arpo_verl.integration.training.advantage",
    "arpo_verl.integration.training.policy_loss",
    "arpo_verl.integration.rollout.signals",
    "arpo_verl.integration.rollout.tools",
)
"""What the checks import. They run in threads, and concurrent first imports of verl's cyclic modules would fail."""


def _load_verl() -> None:
    for module in VERL_MODULES:
        importlib.import_module(module)
    for parts in (ADVANTAGES, LOSSES, RULES, SERVERS):
        for name in parts.names:
            parts.shipped(name, parts.what)


def check_devices(doctor_input: DoctorInput) -> list[Finding]:
    """Check that torch sees the accelerators that the configuration asks for, or is told to do without."""
    import torch

    trainer, is_on_cpu = doctor_input.config.trainer, os.environ.get("VERL_PLATFORM") == "cpu"
    if is_on_cpu != (trainer.device == "cpu") and (doctor_input.is_run or not is_on_cpu):
        advice = f"add {CPU_OVERRIDES}" if is_on_cpu else "put VERL_PLATFORM=cpu into the environment"
        raise ValueError(
            f"trainer.device={trainer.device!r} with VERL_PLATFORM={os.environ.get('VERL_PLATFORM')!r}; expected cpu "
            f"in both or in neither: {advice}"
        )
    if is_on_cpu:
        return [Finding("devices", Status.OK, f"CPU, as VERL_PLATFORM=cpu asks: {os.cpu_count()} cores")]
    if trainer.device != "cuda":
        return [Finding("devices", Status.SKIPPED, f"{trainer.device}: only cuda and cpu are known here")]
    return [cuda_finding(torch.cuda, doctor_input)]


def cuda_finding(cuda: Any, doctor_input: DoctorInput) -> Finding:
    """Return the finding about `torch.cuda`.

    Raises:
        RuntimeError: it has too few devices, or too little memory is free on one.
    """
    try:
        cuda.init()
        count = cuda.device_count()
    except (RuntimeError, AssertionError) as error:
        raise RuntimeError(
            f"no accelerator: {error}; expected a CUDA device: install its driver and a torch built for it, start the "
            f"container with --gpus all, or put VERL_PLATFORM=cpu into the environment and add {CPU_OVERRIDES}"
        ) from error
    wanted = doctor_input.config.trainer.n_gpus_per_node
    if doctor_input.is_run and count < wanted:
        raise RuntimeError(
            f"{count} devices are seen; expected trainer.n_gpus_per_node={wanted}: lower it, or see "
            f"CUDA_VISIBLE_DEVICES"
        )
    share = doctor_input.config.actor_rollout_ref.rollout.gpu_memory_utilization
    sizes = []
    for device in range(count):
        free, total = cuda.mem_get_info(device)
        sizes.append(f"{free / GIB:.0f} of {total / GIB:.0f} GiB free")
        if free < share * total:
            raise RuntimeError(
                f"device {device} has {sizes[-1]}; expected the {share * total / GIB:.0f} GiB that vLLM takes: end the "
                f"processes that nvidia-smi shows, or lower actor_rollout_ref.rollout.gpu_memory_utilization={share}"
            )
    return Finding("devices", Status.OK, f"{count} x {cuda.get_device_name(0)}, {', '.join(sizes)}")


def check_plugin() -> list[Finding]:
    """Check that importing verl has loaded the plug-in, and that it has registered the algorithm."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto")
    is_wanted = bool({"auto", "arpo"} & {name.strip() for name in policy.lower().split(",")})
    if is_wanted and (cause := _plugin_error()):  # verl may know the estimator all the same, and not the rest
        raise RuntimeError(
            f"the plug-in fails when verl loads it, which verl hides: {cause}; expected it to load: mend that, or "
            f"install arpo-verl anew"
        )
    if ESTIMATOR not in ADV_ESTIMATOR_REGISTRY:
        raise RuntimeError(
            f"verl does not know algorithm.adv_estimator={ESTIMATOR} (VERL_USE_EXTERNAL_PLUGINS={policy!r}); expected "
            f"the plug-in: unset that variable or add arpo to it, and see `python -c 'import arpo_verl.plugin'`"
        )
    return [Finding("plug-in", Status.OK, f"verl knows algorithm.adv_estimator={ESTIMATOR}")]


def _plugin_error() -> str | None:
    """Return why the plug-in can't be loaded, or None; where verl has loaded it already, nothing is done."""
    try:
        importlib.import_module("arpo_verl.plugin")
    except Exception as error:
        # Whatever is broken, a library or a file of ours, has its own kind of exception.
        *_, frame = traceback.extract_tb(error.__traceback__)
        return f"{type(error).__name__}: {error} ({frame.filename}:{frame.lineno})"
    return None


def check_settings(config: DictConfig) -> list[Finding]:
    """Check what the pre-flight of a run checks in its settings."""
    warning = check_estimator(config)
    if warning:
        return [Finding("settings", Status.WARNING, warning)]
    preflight.check_parts(config)
    if not RunParts.of(config).grows_trees:
        text = f"algorithm.adv_estimator={config.algorithm.adv_estimator}: nothing of ARPO's to check"
        return [Finding("settings", Status.SKIPPED, text)]
    preflight.check_values(config)
    if reason := no_branching(config):
        text = f"the run never branches, as GRPO: {reason}; expected settings that can: change them, or train by grpo"
        return [Finding("settings", Status.WARNING, text)]
    return [Finding("settings", Status.OK, "the values of arpo.*, rollout and trainer fit each other")]


def check_model(doctor_input: DoctorInput) -> list[Finding]:
    """Check the model's files, and that its tokenizer loads and has a chat template."""
    model = doctor_input.config.actor_rollout_ref.model
    path = str(model.path)
    if path == UNSET[MODEL] and not doctor_input.is_run:
        return [Finding("model", Status.SKIPPED, f"not given; {MODEL}=... has it checked")]
    folder = Path(path).expanduser()
    if "://" in path:
        return [Finding("model", Status.SKIPPED, f"{path} is not on this machine; verl copies it")]
    if not folder.is_dir():
        return [_hub_finding(path)]
    if problem := model_problem(folder):
        raise ValueError(problem)
    tokenizer = _tokenizer(model, folder)
    if RunParts.of(doctor_input.config).has_response_prefix:
        check_tags(doctor_input.config, tokenizer)
    tokens = _prompt_tokens(tokenizer)
    size = sum(file.stat().st_size for file in weight_files(folder))
    text = f"{folder}: {size / GIB:.2f} GiB of weights; its chat template makes {tokens} tokens of a short prompt"
    return [Finding("model", Status.OK, text), _thinking_finding(doctor_input.config, tokenizer)]


def _thinking_finding(config: DictConfig, tokenizer: Any) -> Finding:
    """Return whether the chat template has opened a `<think>` when the model begins, and who tells the reward."""
    prefix = chat_prefix(tokenizer, plain_json(config.data.get("apply_chat_template_kwargs", {})))
    if not prefix:
        unknown = "can't be asked whether it opens" if prefix is None else "doesn't open"
        return Finding("thinking", Status.OK, f"the chat template {unknown} <think> for the model")
    opened = f"the chat template opens <think> for the model (it ends in {prefix!r})"
    reward = config.reward.custom_reward_function
    is_told = RunParts.of(config).has_response_prefix
    if reward.path != OUR_REWARD or is_told or (reward.get("reward_kwargs") or {}).get(RESPONSE_PREFIX):
        return Finding("thinking", Status.OK, f"{opened}; our reward functions read responses as beginning inside it")
    advice = f"add +reward.custom_reward_function.reward_kwargs.{RESPONSE_PREFIX}={prefix.strip()!r}"
    return Finding("thinking", Status.WARNING, f"{opened}, which this agent loop doesn't tell the reward: {advice}")


def _hub_finding(path: str) -> Finding:
    from huggingface_hub import try_to_load_from_cache

    if not REPOSITORY.fullmatch(path):
        raise ValueError(f"{MODEL}={path!r} is no folder; expected a Hugging Face model folder: correct the path")
    if isinstance(try_to_load_from_cache(path, "config.json"), str):
        return Finding("model", Status.OK, f"{path} is in the Hugging Face cache")
    advice = f"expected a folder or a cached model: if it is a model of the hub, hf download {path}"
    return Finding("model", Status.WARNING, f"{path} is no folder and not in the Hugging Face cache; {advice}")


def _tokenizer(model: DictConfig, folder: Path) -> Any:
    """Return the tokenizer with the chat template of the run.

    Raises:
        ValueError: there is no tokenizer, or it has no chat template.
    """
    from transformers import AutoTokenizer

    place = model.get("tokenizer_path") or folder
    try:
        tokenizer = AutoTokenizer.from_pretrained(place, trust_remote_code=bool(model.get("trust_remote_code")))
    except Exception as error:
        # Whatever the tokenizer's own code raises.
        raise ValueError(
            f"the tokenizer of {place} can't be loaded ({error!r}); expected tokenizer.json and tokenizer_config.json: "
            f"download the model anew"
        ) from error
    template = model.get("custom_chat_template") or tokenizer.chat_template
    if not template:
        raise ValueError(
            f"the tokenizer of {place} has no chat template; expected one, which turns messages into a prompt: take an "
            f"instruct model, add chat_template.jinja, or set actor_rollout_ref.model.custom_chat_template"
        )
    tokenizer.chat_template = template
    return tokenizer


def _prompt_tokens(tokenizer: Any) -> int:
    """Return how many tokens a short prompt has."""
    messages = [{"role": "user", "content": "1+1?"}]
    text = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    return len(tokenizer.encode(text, add_special_tokens=False))


def check_other_tools(config: DictConfig) -> list[Finding]:
    """Make the tools that are not ours, as verl does. They are not called: no call is known to be harmless."""
    path, functions = (tool_file(config, key) for key in ("tool_config_path", "function_tool_path"))
    others = other_entries(path) if path else []
    if not others and not functions:
        return [Finding("other tools", Status.SKIPPED, "none but our own")]
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create({"tools": others})))
        file.flush()
        paths = {"tool_config_path": file.name if others else None, "function_tool_path": functions}
        try:
            load_tools(config, paths)
        except ValueError as error:
            raise ValueError(str(error).replace(file.name, str(path))) from error
    names = [str(entry.class_name) for entry in others] + ([functions] if functions else [])
    return [Finding("other tools", Status.OK, f"made, not called: {', '.join(names)}")]
