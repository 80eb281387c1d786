"""Ends a run whose tools no longer work, before it learns from what they did not say."""

import logging

from omegaconf import DictConfig

from arpo_verl.config import ArpoConfig
from arpo_verl.rollout.metrics import Trees, infrastructure_fraction
from arpo_verl.rollout.tree import BUDGET, REFUSED

logger = logging.getLogger(__name__)


class RunStopped(RuntimeError):
    """Training can't go on with the leaves of this step."""

    are_leaves_bad = True
    """Whether the leaves that are in the queue must not be found by a run that goes on."""


class PaidCallsSpent(RunStopped):
    """The run has made all the paid calls that it may: an end that was asked for."""


def require_working_tools(trees: Trees, config: ArpoConfig) -> None:
    """Check how the calls of a step ended.

    Raises:
        PaidCallsSpent: a call was not made because the paid calls are spent.
        RunStopped: a service refuses the key or the account, or more than `arpo.max_infrastructure_fraction` of the
            leaves have an infrastructure failure.
    """
    leaves = [leaf for tree in trees.values() for leaf in tree]
    tools = {
        end: sorted({call.tool for leaf in leaves for call in leaf.calls if call.status == end})
        for end in (REFUSED, BUDGET)
    }
    if tools[REFUSED]:
        raise RunStopped(
            f"the service behind {', '.join(tools[REFUSED])} refuses the key or the account; expected it to answer: "
            f"`arpo-verl doctor` says what to mend"
        )
    if tools[BUDGET]:
        raise PaidCallsSpent(
            f"the paid calls of {', '.join(tools[BUDGET])} are spent: raise max_paid_calls in the tool list to go on"
        )
    share = infrastructure_fraction(leaves)
    if share > config.max_infrastructure_fraction:
        raise RunStopped(
            f"tools had infrastructure failures in {share:.0%} of {len(leaves)} leaves; expected at most "
            f"arpo.max_infrastructure_fraction={config.max_infrastructure_fraction:g}: mend them (`arpo-verl doctor` "
            f"names what fails, tools/<name>/status/ counts it) or raise the limit"
        )


def warn_without_calls(calls: float, config: DictConfig, step: int) -> None:
    """Say so in the log when a step with tools has no call: the model has stopped using them, or never began."""
    multi_turn = config.actor_rollout_ref.rollout.multi_turn
    if calls == 0 and (multi_turn.tool_config_path or multi_turn.function_tool_path):
        logger.error(
            "step %d: no leaf has called a tool (tools/calls_per_leaf is 0): look at the responses in "
            "trainer.rollout_data_dir; a model that does not write calls in the format %r needs a cold start",
            step,
            multi_turn.format,
        )
