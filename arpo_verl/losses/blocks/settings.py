"""The settings of the loss `composed`, and what it needs with them."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from arpo_verl.losses import ENTROPY, MINI_BATCH_SUMS, PAST_ENTROPY, Needs

RATIOS = ("token", "turn", "sequence")
CLIPS = ("ppo", "grad_preserving", "cispo", "balanced")
CLIP_SCALES = ("none", "entropy_hat", "turn_signal")
BAND = {"weight": 1e-4, "low": 0.5, "high": 1.5}
FUTURE = {"weight": 1.0, "discount": 2 ** (-1 / 64), "low": 1.0, "high": 1.2}
BALANCE = {"share": 0.5, "low": 0.6, "high": 1.2, "low_end": 0.9, "high_end": 3.0, "step": 0.05}


@dataclass(frozen=True)
class LossSettings:
    """The blocks of a loss. Each has a default that leaves verl's `vanilla` loss as it is."""

    ratio: str = "token"
    """Level of the importance ratio: `token`, or the geometric mean over a `turn` or the `sequence`."""
    clip: str = "ppo"
    """What happens outside of the bounds: `ppo`, `grad_preserving`, `cispo`, or `balanced`, PPO's clip between bounds
    that are looked for (`arpo_verl.losses.blocks.balance`)."""
    clip_low: float | None = None
    """ε below 1; None: the actor's `clip_ratio_low`, or else its `clip_ratio`. Those are meant for token ratios; the
    ratio of a turn varies far less, and AT²PO takes 0.003 and 0.004."""
    clip_high: float | None = None
    """ε above 1; None: the actor's `clip_ratio_high`, or else its `clip_ratio`."""
    dual_clip: float | None = None
    """The largest ratio of a negative advantage that has a gradient; None: the actor's `clip_ratio_c`; 0: no limit."""
    clip_scale: str = "none"
    """Factors of each token's ε, from the advantage: by its entropy (`entropy_hat`, HAPO), or whatever it returns as
    `clip_scale_low` and `clip_scale_high` (`turn_signal`, A²TGPO)."""
    entropy_gate: bool = False
    """Whether advantages are changed by `entropy_hat` and by how far the ratio is from 1 (HAPO)."""
    entropy_band: Mapping[str, float] | None = None
    """`weight`, `low` and `high` of EPO's penalty; an empty mapping takes `BAND`, None has no penalty."""
    future_ratio: Mapping[str, float] | None = None
    """`weight` b, `discount` γ, `low` and `high` of FIPO's factor; an empty mapping takes `FUTURE`."""
    balance: Mapping[str, float] | None = None
    """With `clip: balanced`, what differs from `BALANCE`."""
    max_probability: float | None = None
    """Tokens that the old policy gave at least this probability have no gradient (SPO: 0.9)."""

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ValueError: one of them is not known, or does not go with another.
        """
        for name, known in (("ratio", RATIOS), ("clip", CLIPS), ("clip_scale", CLIP_SCALES)):
            if getattr(self, name) not in known:
                raise ValueError(f"{name}={getattr(self, name)!r}; expected one of {', '.join(known)}: change it")
        self._check_numbers()
        for name, defaults in (("entropy_band", BAND), ("future_ratio", FUTURE), ("balance", BALANCE)):
            given = getattr(self, name)
            if given is not None and (not isinstance(given, Mapping) or not set(given) <= set(defaults)):
                raise ValueError(f"{name}={given!r}; expected a mapping of some of {', '.join(defaults)}: correct it")
        if self.clip != "balanced" and self.balance is not None:
            raise ValueError(f"balance with clip={self.clip}; expected clip=balanced: leave balance out, or set it")
        if self.clip == "balanced" and (self.clip_scale != "none" or self.clip_low or self.clip_high):
            raise ValueError(
                "clip=balanced, which looks for its bounds, with clip_scale, clip_low or clip_high; expected one of "
                "them: leave the others out, or set the search's ends in balance"
            )

    def _check_numbers(self) -> None:
        for name in ("clip_low", "clip_high", "dual_clip", "max_probability"):
            value = getattr(self, name)
            is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
            if value is not None and not (is_number and value >= 0):
                raise ValueError(f"{name}={value!r}; expected a number of at least 0, or null: change it")
        if self.dual_clip is not None and 0 < self.dual_clip <= 1:
            raise ValueError(f"dual_clip={self.dual_clip}; expected more than 1, or 0 for no limit: change it")

    @classmethod
    def of(cls, settings: Mapping[str, Any]) -> "LossSettings":
        """Return settings by name.

        Raises:
            ValueError: one of them is not known, or does not go with another.
        """
        known = [field.name for field in dataclasses.fields(cls)]
        for name in settings:
            if name not in known:
                raise ValueError(f"{name} is not a known setting; expected one of {known}: correct its name")
        return cls(**settings)

    @property
    def band(self) -> Mapping[str, float]:
        """The band with its defaults."""
        return {**BAND, **(self.entropy_band or {})}

    @property
    def future(self) -> Mapping[str, float]:
        """The future ratio with its defaults."""
        return {**FUTURE, **(self.future_ratio or {})}

    @property
    def search(self) -> Mapping[str, float]:
        """The search for balanced bounds with its defaults."""
        return {**BALANCE, **(self.balance or {})}

    @property
    def needs(self) -> Needs:
        """What the loss needs beside verl's arguments."""
        required: list[str] = []
        if self.ratio == "turn":
            required.append("turn_ids")
        if self.clip_scale == "turn_signal":
            required += ["clip_scale_low", "clip_scale_high"]
        if self.clip_scale == "entropy_hat" or self.entropy_gate:
            required.append("entropy_hat")
        if self.entropy_band is not None:
            required += [ENTROPY, PAST_ENTROPY]
        if self.clip == "balanced":
            required.append(MINI_BATCH_SUMS)
        return Needs(tuple(required), ("row_weight", "is_replay"))
