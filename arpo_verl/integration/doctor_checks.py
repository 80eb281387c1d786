"""The doctor's checks that need torch or verl, which are imported stage by stage and not with this module."""

import importlib
import os
import re
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from arpo_verl.doctor.data import model_problem, weight_files
from arpo_verl.doctor.finding import UNSET, Check, Finding, Stage, Status, Subject
from arpo_verl.doctor.tool_list import other_entries, tool_file
from arpo_verl.integration import preflight
from arpo_verl.integration.settings import ESTIMATOR, TAG_AGENT, wants_arpo
from arpo_verl.integration.tag_check import check_tags

MODEL = "actor_rollout_ref.model.path"
REPOSITORY = re.compile(r"[\w.-]+(/[\w.-]+)?")
"""A model's name on the Hugging Face hub."""
GIB = 1 << 30


def verl_stages(subject: Subject) -> list[Stage]:
    """Return the lane's checks: of what torch sees, and of what verl makes of the configuration."""
    later = [
        Check("plug-in", check_plugin),
        Check("settings", partial(check_settings, subject.config)),
        Check("model", partial(check_model, subject)),
        Check("other tools", partial(check_other_tools, subject.config)),
    ]
    return [Stage([Check("devices", partial(check_devices, subject))], _load_torch), Stage(later, _load_verl)]


def _load_torch() -> None:
    importlib.import_module("torch")


def _load_verl() -> None:
    for module in ("verl", "verl.trainer.ppo.core_algos", "transformers"):
        importlib.import_module(module)


def check_devices(subject: Subject) -> list[Finding]:
    """Check that torch sees the accelerators that the configuration asks for, or is told to do without."""
    import torch

    trainer, is_on_cpu = subject.config.trainer, os.environ.get("VERL_PLATFORM") == "cpu"
    if is_on_cpu != (trainer.device == "cpu") and (subject.is_run or not is_on_cpu):
        advice = "add platform=cpu" if is_on_cpu else "put VERL_PLATFORM=cpu into the environment"
        raise ValueError(
            f"trainer.device={trainer.device!r} with VERL_PLATFORM={os.environ.get('VERL_PLATFORM')!r}; expected cpu "
            f"in both or in neither: {advice}"
        )
    if is_on_cpu:
        return [Finding("devices", Status.OK, f"CPU, as VERL_PLATFORM=cpu asks: {os.cpu_count()} cores")]
    if trainer.device != "cuda":
        return [Finding("devices", Status.SKIPPED, f"{trainer.device}: only cuda and cpu are known here")]
    return [cuda_finding(torch.cuda, subject)]


def cuda_finding(cuda: Any, subject: Subject) -> Finding:
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
            f"container with --gpus all, or use VERL_PLATFORM=cpu with platform=cpu"
        ) from error
    wanted = subject.config.trainer.n_gpus_per_node
    if subject.is_run and count < wanted:
        raise RuntimeError(
            f"{count} devices are seen; expected trainer.n_gpus_per_node={wanted}: lower it, or see "
            f"CUDA_VISIBLE_DEVICES"
        )
    share = subject.config.actor_rollout_ref.rollout.gpu_memory_utilization
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
    """Check that importing verl has registered the algorithm."""
    from verl.trainer.ppo.core_algos import ADV_ESTIMATOR_REGISTRY

    if ESTIMATOR not in ADV_ESTIMATOR_REGISTRY:
        policy = os.environ.get("VERL_USE_EXTERNAL_PLUGINS", "auto")
        raise RuntimeError(
            f"verl does not know algorithm.adv_estimator={ESTIMATOR} (VERL_USE_EXTERNAL_PLUGINS={policy!r}); expected "
            f"the plug-in: unset that variable or add arpo to it, and see `python -c 'import arpo_verl.plugin'`"
        )
    return [Finding("plug-in", Status.OK, f"verl knows algorithm.adv_estimator={ESTIMATOR}")]


def check_settings(config: DictConfig) -> list[Finding]:
    """Check what the pre-flight of a run checks in its settings."""
    if not wants_arpo(config):
        text = f"algorithm.adv_estimator={config.algorithm.adv_estimator}: nothing of ARPO's to check"
        return [Finding("settings", Status.SKIPPED, text)]
    preflight.check_settings(config)
    preflight.check_trainer(config)
    preflight.check_result_template(config)
    preflight.check_entropy_source(config)
    return [Finding("settings", Status.OK, "the values of arpo.*, rollout and trainer fit each other")]


def check_model(subject: Subject) -> list[Finding]:
    """Check the model's files, and that its tokenizer loads and has a chat template."""
    model = subject.config.actor_rollout_ref.model
    path = str(model.path)
    if path == UNSET[MODEL] and not subject.is_run:
        return [Finding("model", Status.SKIPPED, f"not given; {MODEL}=... has it checked")]
    folder = Path(path).expanduser()
    if "://" in path:
        return [Finding("model", Status.SKIPPED, f"{path} is not on this machine; verl copies it")]
    if not folder.is_dir():
        return [_hub_finding(path)]
    if problem := model_problem(folder):
        raise ValueError(problem)
    tokens = _prompt_tokens(subject.config, folder)
    size = sum(file.stat().st_size for file in weight_files(folder))
    text = f"{folder}: {size / GIB:.2f} GiB of weights; its chat template makes {tokens} tokens of a short prompt"
    return [Finding("model", Status.OK, text)]


def _hub_finding(path: str) -> Finding:
    from huggingface_hub import try_to_load_from_cache

    if not REPOSITORY.fullmatch(path):
        raise ValueError(f"{MODEL}={path!r} is no folder; expected a Hugging Face model folder: correct the path")
    if isinstance(try_to_load_from_cache(path, "config.json"), str):
        return Finding("model", Status.OK, f"{path} is in the Hugging Face cache")
    advice = f"expected a folder or a cached model: if it is a model of the hub, hf download {path}"
    return Finding("model", Status.WARNING, f"{path} is no folder and not in the Hugging Face cache; {advice}")


def _prompt_tokens(config: DictConfig, folder: Path) -> int:
    """Return how many tokens a short prompt has.

    Raises:
        ValueError: there is no tokenizer, it has no chat template, or it hides the run's tags from the reward.
    """
    from transformers import AutoTokenizer

    model = config.actor_rollout_ref.model
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
    if wants_arpo(config) or config.actor_rollout_ref.rollout.agent.default_agent_loop == TAG_AGENT:
        check_tags(config, tokenizer)
    messages = [{"role": "user", "content": "1+1?"}]
    text = tokenizer.apply_chat_template(messages, chat_template=template, add_generation_prompt=True, tokenize=False)
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
            preflight.load_tools(config, paths)
        except ValueError as error:
            raise ValueError(str(error).replace(file.name, str(path))) from error
    names = [str(entry.class_name) for entry in others] + ([functions] if functions else [])
    return [Finding("other tools", Status.OK, f"made, not called: {', '.join(names)}")]
