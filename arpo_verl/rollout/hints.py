"""Hints: the beginning of the gold solution in a prompt that the policy can't solve (GHPO, arXiv 2507.10628).

A prompt whose leaves all fail gives no signal: it is grown once more with a quarter of its solution in the prompt, then
with half, then with three quarters, until a leaf succeeds. A hinted prompt is another state than the plain one, so the
leaves of the last tree replace those before it and form the prompt's group alone; none is compared across hints.

Differences from the released code (hkgc-1/GHPO, commit 563abfc): it decides in the trainer, for the whole batch, when
all completions of a step are there, and here it is decided as soon as the leaves of one prompt have their rewards; it
cuts a solution at any character, and here at the end of a word; it cuts a prompt that becomes too long on the left, and
here such a hint is not given.
"""

import logging
import math
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

logger = logging.getLogger(__name__)

HINT = "{hint}"
"""What a template has in the place of the solution's beginning."""

Grown = TypeVar("Grown")


@dataclass(frozen=True)
class HintSettings:
    """The settings of hints, `arpo.hint_kwargs`."""

    levels: tuple[float, ...] = (0.25, 0.5, 0.75)
    """Shares of the solution that are shown one after the other; the paper's."""
    threshold: float = 0.0
    """A leaf whose reward is at most this has failed."""
    field: str = "extra_info.solution"
    """Where a dataset row has its gold solution, as a text."""
    first_step: int = 0
    """The first training step that gives hints; before, a policy may learn the format by itself."""
    template: str = "\n\nThis is how a correct solution begins:\n{hint}"
    """What is added to the prompt's last message."""

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "HintSettings":
        """Return the settings in `arpo.hint_kwargs`.

        Raises:
            ValueError: one is not known, or can't be used.
        """
        known = list(cls.__dataclass_fields__)
        for name in values:
            if name not in known:
                raise ValueError(
                    f"arpo.hint_kwargs.{name} is not a known setting; expected one of {known}: correct its name"
                )
        levels = values.get("levels", cls.levels)
        return cls(**{**values, "levels": tuple(levels) if isinstance(levels, (list, tuple)) else levels})

    def __post_init__(self) -> None:
        checks = [
            ("levels", _are_levels(self.levels), "rising shares above 0 and up to 1, such as [0.25, 0.5, 0.75]"),
            ("threshold", _is_finite(self.threshold), "a finite number"),
            ("first_step", _is_count(self.first_step), "a whole number of steps"),
            (
                "field",
                isinstance(self.field, str) and bool(self.field),
                "a field such as extra_info.solution",
            ),
            (
                "template",
                isinstance(self.template, str) and self.template.count(HINT) == 1,
                f"a text with {HINT} in it, once",
            ),
        ]
        for name, is_valid, expected in checks:
            if not is_valid:
                raise ValueError(f"arpo.hint_kwargs.{name}={getattr(self, name)!r}; expected {expected}: change it")

    def all_failed(self, rewards: Iterable[float | None]) -> bool:
        """Whether every leaf with a known reward has failed, and there is one. None and NaN are not known."""
        known = [reward for reward in rewards if reward is not None and not math.isnan(reward)]
        return bool(known) and all(reward <= self.threshold for reward in known)

    def hinted(self, sample: Mapping[str, Any], level: float) -> dict[str, Any] | None:
        """Return a dataset row with a share of its solution in its last message.

        None where it has no solution, or that message is no text.

        Args:
            sample: the fields of the row; `raw_prompt` has its messages.
            level: the share.
        """
        solution = solution_of(sample, self.field)
        messages = [dict(message) for message in sample["raw_prompt"]]
        if solution is None or not isinstance(messages[-1]["content"], str):
            return None
        hint = self.template.replace(HINT, beginning_of(solution, level))
        messages[-1]["content"] = messages[-1]["content"] + hint
        return {**sample, "raw_prompt": messages}


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_finite(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def _are_levels(levels: object) -> bool:
    if not isinstance(levels, tuple) or not levels or not all(map(_is_finite, levels)):
        return False
    return all(0 < level <= 1 for level in levels) and list(levels) == sorted(set(levels))


def solution_of(sample: Mapping[str, Any], field: str) -> str | None:
    """Return the gold solution of a row; None where there is none, or it is no text."""
    value: Any = sample
    for name in field.split("."):
        value = value.get(name) if isinstance(value, Mapping) else None
    return value if isinstance(value, str) and value.strip() else None


def beginning_of(solution: str, level: float) -> str:
    """Return the first share of a solution by its length, at least to the end of the word that the cut would split.

    >>> beginning_of("one two three four", 0.5)
    'one two three'
    """
    cut = math.ceil(len(solution) * level)
    while cut < len(solution) and not solution[cut].isspace():
        cut += 1
    return solution[:cut].rstrip()


async def grown_with_hints(
    settings: HintSettings,
    sample: Mapping[str, Any],
    grow: Callable[[dict[str, Any], float], Awaitable[Sequence[Grown] | None]],
    reward_of: Callable[[Grown], float | None],
) -> tuple[dict[str, Any], float, Sequence[Grown]]:
    """Grow a prompt's leaves, with hints where all fail, and return those of the last tree with what they grew from.

    A hinted tree that can't be grown leaves the tree before it as it is.

    Args:
        settings: the run's.
        sample: the fields of the prompt's dataset row.
        grow: grows the leaves of a row, of which this share of the solution is shown; None: it does not fit.
        reward_of: returns a leaf's reward; None: not known.

    Returns:
        the row, the share of the solution in it, and the leaves.
    """
    shown, hint = dict(sample), 0.0
    leaves = await grow(shown, hint)
    assert leaves is not None, "the plain prompt always fits"
    has_begun = int(sample.get("global_steps", settings.first_step)) >= settings.first_step
    for level in settings.levels if has_begun else ():
        if not settings.all_failed(map(reward_of, leaves)):
            break
        hinted = settings.hinted(sample, level)
        if hinted is None:
            break
        try:
            grown = await grow(hinted, level)
        except Exception:
            logger.exception("a prompt could not be grown with %g of its solution; its leaves before are kept", level)
            break
        if grown is None:
            logger.warning("a prompt with %g of its solution is longer than data.max_prompt_length", level)
            break
        shown, hint, leaves = hinted, level, grown
    return shown, hint, leaves
