"""No branching: all leaves start from the prompt, as in GRPO."""

from arpo_verl.rollout.rule import BranchingRule
from arpo_verl.rollout.tree import Tree


class Linear(BranchingRule):
    """All n leaves are roots; nothing is measured and nothing decided."""

    def new_roots(self, tree: Tree) -> int:
        return tree.missing
