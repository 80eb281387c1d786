"""One branching rule a file: a subclass of `BranchingRule` that says where and how often trees branch.

`arpo_verl/rules/<name>.py` has the class `<Name>`, and `arpo.rule=<name>` chooses it; nothing else has to know of it.
`arpo.rule=my_package.module.MyRule` chooses one that lies elsewhere.
"""

from arpo_verl.config import ArpoConfig
from arpo_verl.named_parts import RULES, parameters_of, require_accepted
from arpo_verl.rollout.rule import BranchingRule, ForkPoint, Round, Watch, expected_forks, possible_forks
from arpo_verl.rollout.tree import Decision
from arpo_verl.rollout.turn_points import TurnPoint

__all__ = [
    "BranchingRule",
    "Decision",
    "ForkPoint",
    "Round",
    "TurnPoint",
    "Watch",
    "build_rule",
    "expected_forks",
    "possible_forks",
]


def build_rule(config: ArpoConfig) -> BranchingRule:
    """Return the rule that `arpo.rule` names, made of the knobs and of `arpo.rule_kwargs`.

    Raises:
        ValueError: there is no such rule, or it can't be made of these knobs.
    """
    kind = RULES.find(config.rule, "arpo.rule")
    if not issubclass(kind, BranchingRule):  # type: ignore[arg-type]  # `find` has seen that it is a class
        raise ValueError(
            f"arpo.rule={config.rule!r} is {kind!r}; expected a subclass of arpo_verl.rules.BranchingRule: correct it"
        )
    parameters = parameters_of(kind, "arpo.rule")
    first = next(iter(parameters), "config")
    require_accepted(config.rule_kwargs, parameters, {first}, "arpo.rule_kwargs")
    rule: BranchingRule = kind(config, **config.rule_kwargs)
    return rule
