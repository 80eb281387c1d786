"""Checks of an ARPO run in the driver, before Ray starts.

Every error says what was got, what was expected and what to change.
"""

import json
import logging
from collections.abc import Callable
from pathlib import Path

from omegaconf import DictConfig, OmegaConf

from arpo_verl.integration.logs import show_warnings
from arpo_verl.integration.serving.server import server_of, under_verls_name
from arpo_verl.integration.settings import (
    AGENT_KEY,
    TAG_AGENT,
    TAG_FORMAT,
    RunParts,
    arpo_config,
)
from arpo_verl.preflight.dataset_check import check_datasets
from arpo_verl.preflight.machine_check import check_port, check_shared_memory, check_versions
from arpo_verl.preflight.packing_check import check_packing
from arpo_verl.preflight.replay_check import check_replay
from arpo_verl.preflight.resume_check import check_resume
from arpo_verl.preflight.rollout_checks import (
    check_estimator,
    check_format,
    check_group,
    check_rule,
    check_verls_rollout,
    no_branching,
)
from arpo_verl.preflight.signal_check import check_signals
from arpo_verl.preflight.tag_check import OUR_REWARD, check_tags_of_run
from arpo_verl.preflight.tool_check import check_tools
from arpo_verl.preflight.weight_bucket import log_raised_bucket
from arpo_verl.presets.fill import fill_preset

logger = logging.getLogger(__name__)

AGENT_LOOPS = ("single_turn_agent", "tool_agent", TAG_AGENT)


def check_before_ray(config: DictConfig) -> DictConfig:
    """Fill in the preset of whatever configuration verl is given, and check it, as far as it is ours.

    On CPU the bucket for weights is raised to the model's largest weight.

    Of a run without trees that is the estimator's name, for a misspelling, an advantage, loss or replay of ours, and
    tags, rows and checkpoint where its rollout is `tag_agent`. The driver of a run of ours also learns to end it saved
    by SIGINT and SIGTERM.

    Returns:
        the configuration for verl's own checks: with verl's name of the rollout, on which some of them depend.

    Raises:
        ValueError: something in the configuration or in a file that it names can't work.
        RuntimeError: something about this machine or its packages can't work.
    """
    show_warnings()
    fill_preset(config)
    log_raised_bucket(config)
    if warning := check_estimator(config):
        logger.warning(warning)
    check_parts(config)
    check_packing(config)
    parts = RunParts.of(config)
    if parts.grows_trees:
        check(config)
    elif parts.uses_tag_agent:
        for one in (check_tags_of_run, check_datasets, check_resume):
            one(config)
    if not parts.is_guarded and (trees := arpo_config(config).log_trees):
        logger.warning(
            "arpo.log_trees=%d logs nothing: this run's rollout is verl's own; expected trees, or %s=%s",
            trees,
            AGENT_KEY,
            TAG_AGENT,
        )
    if parts.is_guarded:
        from arpo_verl.integration.training.stop_request import save_when_stopped

        save_when_stopped()
    renamed: DictConfig = under_verls_name(config)
    return renamed


def check(config: DictConfig) -> None:
    """Check a whole verl configuration whose rollout grows trees.

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
        logger.warning(
            "this run of algorithm.adv_estimator=%s never branches, as GRPO: %s", config.algorithm.adv_estimator, reason
        )


def check_parts(config: DictConfig) -> None:
    """Check an advantage, a loss, a source of replay and signals, ours or the user's own, in a run that asks for one.

    Raises:
        ValueError: one of them can't be found, does not take its settings, fails on an example, or the run can't give
            what it needs.
    """
    from arpo_verl.integration.training.advantage import ChosenAdvantage
    from arpo_verl.integration.training.policy_loss import check_loss

    check_signals(config)
    is_ours = RunParts.of(config).uses_our_advantage
    for_loss: tuple[str, ...] = ()
    if is_ours:
        # In bypass mode verl computes no entropies.
        has_entropies = not OmegaConf.select(config, "algorithm.rollout_correction.bypass_mode")
        for_loss = ChosenAdvantage.of(config).try_out(has_entropies)
        check_group(config)
    has_parts = [check_loss(config, for_loss), check_replay(config), is_ours]
    if any(has_parts) and not config.trainer.use_v1:
        raise ValueError(
            "trainer.use_v1=False; expected True: verl's older trainer gets neither trees nor a loss of ours, nor "
            "replayed rows"
        )


def check_values(config: DictConfig) -> None:
    """Check what a configuration says, as far as no file of the run and nothing of the machine is needed.

    Raises:
        ValueError: something in it can't work.
    """
    for one in CONFIG_CHECKS:
        one(config)


def check_settings(config: DictConfig) -> None:
    rollout = config.actor_rollout_ref.rollout
    check_group(config)
    arpo_config(config).roots(rollout.n)
    check_rule(config)
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
    server_of(config)
    check_format(rollout.multi_turn.format)
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


def check_server(config: DictConfig) -> None:
    """Check that the inference server can do what is asked of it."""
    server_of(config).check(config)


CONFIG_CHECKS: list[Callable[[DictConfig], None]] = [
    check_settings,
    check_trainer,
    check_verls_rollout,
    check_result_template,
    check_server,
]
"""Checks that need the configuration alone."""
