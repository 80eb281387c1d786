"""What a finished leaf carries beside its reward: rewards of its turns, information gains, and what its prompt showed.

It travels with the leaf in plain values, as its record does. A turn without a value has None.
"""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

SIGNALS = "arpo_signals"
"""Key of verl's `extra_fields` under which a leaf's signals travel, as a dictionary."""
TURN_REWARDS, INFO_GAINS = "turn_rewards", "info_gains"
"""Keys of a reward's dictionary under which it gives one number for each turn, as a list."""
BY_TURN = (TURN_REWARDS, INFO_GAINS)


@dataclass(frozen=True)
class LeafSignals:
    """The signals of one leaf; a field that the run did not ask for has its default."""

    turn_rewards: list[float | None] | None = None
    """One entry for each turn; None where there are none."""
    turn_reward_failure: str | None = None
    """Why the leaf has no `turn_rewards` although the run asks for them."""
    info_gains: list[float | None] | None = None
    """One entry for each turn: g_k, None where the turn has no result or a probability is not known."""
    scoring_requests: int = 0
    """Requests to the inference server that this leaf was the first to need."""
    scoring_failures: int = 0
    """The number of those that brought no probability."""
    scoring_seconds: float = 0.0
    """The sum of their times."""
    hint: float | None = None
    """The share of the solution that the leaf's prompt showed; None: the run gives no hints."""

    @classmethod
    def of_fields(cls, extra_fields: Mapping[str, Any]) -> "LeafSignals":
        """Return the signals in a leaf's `extra_fields`; all defaults where there are none."""
        return cls(**extra_fields.get(SIGNALS, {}))

    def as_dict(self) -> dict[str, Any]:
        """Return the signals as lists, numbers and texts."""
        return asdict(self)


def checked_turn_values(values: Any, turns: int) -> list[float | None]:
    """Return rewards of turns as plain numbers, None for a turn without one.

    Args:
        values: what a function gave: a list with a number, None or NaN for each turn.
        turns: how many there are.

    Raises:
        ValueError: it is no such list, has another length, or a value in it is infinite.
    """
    plain = values.tolist() if hasattr(values, "tolist") else values
    expected = f"expected a list of {turns} numbers, one for each turn, or None for a turn without a reward"
    if not isinstance(plain, (list, tuple)):
        raise ValueError(f"got {values!r:.80}; {expected}: mend the function")
    if len(plain) != turns:
        raise ValueError(f"got {len(plain)} rewards; {expected}: mend the function")
    checked: list[float | None] = []
    for number, value in enumerate(plain, start=1):
        one = value.item() if hasattr(value, "item") else value
        if one is not None and (isinstance(one, bool) or not isinstance(one, (int, float)) or _is_infinite(one)):
            raise ValueError(f"got {value!r:.80} for turn {number}; {expected}: mend the function")
        checked.append(None if one is None or math.isnan(one) else float(one))
    return checked


def _is_infinite(value: float) -> bool:
    try:
        return math.isinf(float(value))
    except OverflowError:  # a whole number beyond any float
        return True


def turn_rewards_of(extra_fields: Mapping[str, Any]) -> tuple[list[float | None] | None, str | None]:
    """Return the rewards of a leaf's turns, and why it has none although it should; see `turn_values_of`."""
    failure = LeafSignals.of_fields(extra_fields).turn_reward_failure
    return (None, failure) if failure is not None else turn_values_of(extra_fields, TURN_REWARDS)


def turn_values_of(extra_fields: Mapping[str, Any], name: str) -> tuple[list[float | None] | None, str | None]:
    """Return one of `BY_TURN` of a leaf, and why it has none although it should.

    The values are those that the run has computed (`arpo.turn_rewards`, `arpo.information_gain`), or else those that
    the leaf's reward gave under this name. A leaf whose reward gave something else than one number for each turn has
    none; its own reward is as good as ever.

    Args:
        extra_fields: of the leaf; `arpo`, its record as a dictionary, is there.
        name: which values.
    """
    computed = getattr(LeafSignals.of_fields(extra_fields), name)
    given = (extra_fields.get("reward_extra_info") or {}).get(name)
    if computed is not None or given is None:
        return computed, None
    turns = sum(segment["is_sampled"] and segment["tokens"] > 0 for segment in extra_fields["arpo"]["segments"])
    try:
        return checked_turn_values(given, turns), None
    except ValueError as error:
        return None, f"{name} of the reward: {error}"


def signal_metrics(leaves: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Return the metrics of the signals that a run has asked for; `leaves` are the extra fields of a step's leaves."""
    fields = list(leaves)
    signals = [LeafSignals.of_fields(one) for one in fields if SIGNALS in one]
    return _turn_reward_metrics(map(turn_rewards_of, fields)) | _gain_metrics(signals) | _hint_metrics(signals)


def _turn_reward_metrics(leaves: Iterable[tuple[list[float | None] | None, str | None]]) -> dict[str, float]:
    asked = [(values, failure) for values, failure in leaves if values is not None or failure is not None]
    if not asked:
        return {}
    metrics = {"turn_reward/failed_fraction": sum(failure is not None for _, failure in asked) / len(asked)}
    return metrics | _means_by_turn("turn_reward/mean", [values for values, _ in asked if values is not None])


def _gain_metrics(signals: Sequence[LeafSignals]) -> dict[str, float]:
    gains = [one.info_gains for one in signals if one.info_gains is not None]
    if not gains:
        return {}
    requests = sum(one.scoring_requests for one in signals)
    metrics = {
        "info_gain/requests": float(requests),
        "info_gain/seconds": sum(one.scoring_seconds for one in signals),
        "info_gain/failed_fraction": sum(one.scoring_failures for one in signals) / requests if requests else 0.0,
    }
    return metrics | _means_by_turn("info_gain/mean", gains)


def _means_by_turn(name: str, values: Sequence[Sequence[float | None]]) -> dict[str, float]:
    """Return the mean over leaves of each turn, counted from 1; a turn without any value has no mean."""
    longest = max(map(len, values), default=0)
    by_turn = [[row[turn] for row in values if turn < len(row)] for turn in range(longest)]
    known = [[value for value in column if value is not None] for column in by_turn]
    return {f"{name}/turn_{turn}": statistics.fmean(column) for turn, column in enumerate(known, start=1) if column}


def _hint_metrics(signals: Sequence[LeafSignals]) -> dict[str, float]:
    hints = [one.hint for one in signals if one.hint is not None]
    if not hints:
        return {}
    shown = [hint for hint in hints if hint > 0]
    metrics = {"hint/hinted_fraction": len(shown) / len(hints)}
    for level in sorted(set(shown)):
        metrics[f"hint/level_fraction/{level:g}"] = shown.count(level) / len(hints)
    return metrics
