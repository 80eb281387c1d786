"""What became of a decision about branching: what a rule can learn from."""

from dataclasses import dataclass

from arpo_verl.rollout.tree import Decision


@dataclass(frozen=True)
class ForkOutcome:
    """A decision, and the leaves below the place that it was made at."""

    decision: Decision
    variance: float | None
    """Unbiased estimate of the variance of a leaf's reward, given the way to the decision; None where nothing has
    forked there, or of what forked no two paths count."""
    total_variance: float | None
    """The same given the prompt alone; None of a prompt with one root."""
    cost_before: tuple[float, float]
    """Sampled tokens and calls from the prompt to there."""
    cost_after: tuple[float, float]
    """Sampled tokens and calls of one leaf from there to its end, in the mean."""
    places: float
    """The leaves of the prompt's tree that are forks or top-ups, over the number of its decisions: added up over the
    decisions of a step, the forks that there could have been."""
