"""A penalty on right answers with flawed reasoning (FAPO, arXiv 2510.22543).

     1   the answer is right
     0   the answer is right, and the response is flawed: a penalty of 1
    -1   the answer is wrong, or the format is bad

Whether a response is flawed decides a function of the user's: a rule, or a generative judge that it asks. None comes
with this package: the paper trains a reward model of its own for it, FAPO-GenRM, which has to be served. A judge that
verl serves (`reward.reward_model`) is reached by the keywords that verl then passes, `reward_router_address` and
`reward_model_tokenizer`.

Where that function fails, the response counts as not flawed and is counted in `flaw_unknown`: leaving out right answers
alone would move every group towards the wrong ones.
"""

import asyncio
import functools
import inspect
import logging
from collections.abc import Callable
from typing import Any, TypedDict

from arpo_verl.reward.score import compute_score

logger = logging.getLogger(__name__)

FLAW_PENALTY = 1.0


class FlawedScore(TypedDict):
    """The reward and its parts; verl logs each number as `val-*/<data source>/<part>`."""

    score: float
    acc: float
    """As in `score.py`."""
    format: float
    """1 if the format is good, else 0."""
    flawed: float
    """1 if the answer is right and the response flawed, else 0."""
    flaw_unknown: float
    """1 if the answer is right and whether the response is flawed could not be told, else 0."""
    check_timeout: float
    check_failed: float
    reason: str
    """These three are those of `score.py`."""


def compute_flawed_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Any = None,
    *,
    flawed: str,
    correct_from: float = 1.0,
    **keywords: Any,
) -> FlawedScore:
    """Score one response under verl's reward function signature; see `compute_score` for what is not said here.

    It is no coroutine, so that verl calls it in a thread, in which a judge may be waited for; the limit is
    `arpo.max_reward_seconds`.

    Args:
        data_source: see `subject.py`.
        solution_str: the response as text, tool results included.
        ground_truth: see `accepted.py`.
        extra_info: as in `compute_score`.
        flawed: the dotted path of a function, or a coroutine function, that is asked about right answers alone. It gets
            `data_source`, `solution_str`, `ground_truth` and `extra_info`, and of the keywords those that it names, and
            returns whether the response is flawed.
        correct_from: the agreement with the ground truth from which an answer is right.
        keywords: those of `compute_score`, and what verl passes for a generative judge.

    Raises:
        ValueError: the function can't be found.
    """
    is_flawed = _function(flawed)
    parts = compute_score(data_source, solution_str, ground_truth, extra_info, **keywords)
    is_right = bool(parts["format"]) and parts["acc"] >= correct_from
    verdict: bool | None = False
    if is_right:
        given = {"data_source": data_source, "solution_str": solution_str, "ground_truth": ground_truth}
        verdict = _verdict(is_flawed, {**keywords, **given, "extra_info": extra_info})
    return FlawedScore(
        score=1.0 - FLAW_PENALTY * bool(verdict) if is_right else -1.0,
        acc=parts["acc"],
        format=parts["format"],
        flawed=float(bool(verdict)),
        flaw_unknown=float(verdict is None),
        check_timeout=parts["check_timeout"],
        check_failed=parts["check_failed"],
        reason="flawed" if verdict else parts["reason"],
    )


def _verdict(is_flawed: Callable[..., Any], given: dict[str, Any]) -> bool | None:
    """Return whether a response is flawed; None where the function fails or returns no truth."""
    try:
        verdict = is_flawed(**_accepted(is_flawed, given))
        if inspect.isawaitable(verdict):
            verdict = asyncio.run(_awaited(verdict))
    except Exception:  # whatever somebody else's function raises
        logger.exception("whether a response is flawed could not be told; it counts as not flawed")
        return None
    if not isinstance(verdict, (bool, int, float)) or verdict not in (0, 1):
        logger.error("the function `flawed` returned %.80r; expected True or False: mend it", verdict)
        return None
    return bool(verdict)


async def _awaited(awaitable: Any) -> Any:
    return await awaitable


def _accepted(function: Callable[..., Any], given: dict[str, Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters
    if any(one.kind is inspect.Parameter.VAR_KEYWORD for one in parameters.values()):
        return given
    return {name: value for name, value in given.items() if name in parameters}


@functools.cache
def _function(path: str) -> Callable[..., Any]:
    from arpo_tools.dotted_path import load

    key = "reward.custom_reward_function.reward_kwargs.flawed"
    function: Callable[..., Any] = load(path, f"{key}: the function")
    if not callable(function):
        raise ValueError(f"{key}={path!r} is {function!r:.80}; expected a function: correct the path")
    return function
