"""The knobs of what a run shows of itself, beside verl's own metrics."""

from dataclasses import dataclass

from arpo_verl.config.knob import at_least, knob


@dataclass(frozen=True)
class LogKnobs:
    """What each step hands to the loggers of `trainer.logger`. Nothing of it changes the training."""

    log_trees: int = knob(
        0,
        "trees of which each step logs a table, to TensorBoard and W&B: those whose rewards differ most, then those "
        "with the most forks ([dashboards.md](dashboards.md)); 0 logs none",
        at_least(0),
    )
