"""What a step's trees say about branching: whether its forks are where rewards differ, and what they cost.

Computed from the leaves' records and rewards alone, over segments and not over tokens.
"""

from arpo_verl.diagnostics.fork_points import ForkPoints
from arpo_verl.diagnostics.grown_trees import GrownTrees
from arpo_verl.diagnostics.metrics import branching_metrics

__all__ = ["ForkPoints", "GrownTrees", "branching_metrics"]
