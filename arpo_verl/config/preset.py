"""The knobs of presets: an algorithm of the family by its name."""

from dataclasses import dataclass

from arpo_verl.config.knob import knob


@dataclass(frozen=True)
class PresetKnobs:
    """Which algorithm of the family fills in the knobs that are not set."""

    preset: str | None = knob(
        None,
        "an algorithm by name, such as `tree_grpo`, or the path of a YAML file of your own: sets the keys that you "
        "leave out; `arpo-verl algorithms` lists them",
    )
    filled_preset: str | None = knob(None, "the preset whose keys have been filled in; set by the run itself")
