"""A reward in two stages, by the training step (R1-Searcher, arXiv 2503.05592).

    stage 1:  answer + 0.5  if the format is good and the response has called a search tool
              answer        if the format is good
              0             otherwise
    stage 2:  answer        if the format is good
              -2            otherwise

Stage 1 teaches to search, stage 2 to use what is found. The answer's value, 0 to 1, and what a good format is are those
of `score.py`: F1 for text, right or wrong for mathematics. A response of bad format has no answer that could be read,
so that "2 points are subtracted" (the README of RUC's release, commit 88e2a97) leaves -2.

Differences from that release: it swaps the reward server and the data by hand between two runs; here one run knows its
step. Its own format rules, with `<begin_of_search>`, are not used.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

from arpo_verl.reward.prefill import whole_response
from arpo_verl.reward.response_format import called_tools
from arpo_verl.reward.score import compute_score

STEP = "global_steps"
"""Key of `extra_info` under which the rollout tells a reward function the training step."""
RETRIEVAL_BONUS = 0.5
BAD_FORMAT = -2.0


class StagedScore(TypedDict):
    """The reward and its parts; verl logs each number as `val-*/<data source>/<part>`."""

    score: float
    acc: float
    """Agreement of the answer with the ground truth, 0 to 1; 0 if the format is bad."""
    format: float
    """1 if the format is good, else 0."""
    retrieved: float
    """1 if the response has called a search tool, else 0."""
    stage: float
    """1 or 2."""
    check_timeout: float
    check_failed: float
    reason: str
    """These three are those of `score.py`."""


def compute_staged_score(
    data_source: str,
    solution_str: str,
    ground_truth: Any,
    extra_info: Any = None,
    *,
    stage_one_steps: int,
    retrieval_tools: Sequence[str] = ("search",),
    **keywords: Any,
) -> StagedScore:
    """Score one response under verl's reward function signature; see `compute_score` for what is not said here.

    Args:
        data_source: see `subject.py`.
        solution_str: the response as text, tool results included.
        ground_truth: see `accepted.py`.
        extra_info: `global_steps` is the training step, which our rollout puts there; the rest as in `compute_score`.
        stage_one_steps: the last step of stage 1; 0 has no stage 1.
        retrieval_tools: tools of which a call counts as a search.
        keywords: those of `compute_score`.

    Raises:
        ValueError: the step is not known, or a setting can't be used.
    """
    if isinstance(stage_one_steps, bool) or not isinstance(stage_one_steps, int) or stage_one_steps < 0:
        raise ValueError(
            f"stage_one_steps={stage_one_steps!r}; expected a whole number of steps: change "
            f"reward.custom_reward_function.reward_kwargs.stage_one_steps"
        )
    is_first = step_of(extra_info) <= stage_one_steps
    parts = compute_score(data_source, solution_str, ground_truth, extra_info, **keywords)
    text = whole_response(solution_str, extra_info, keywords.get("response_prefix"), is_guessed=True)
    retrieved = bool(called_tools(text) & set(retrieval_tools))
    if parts["format"]:
        score = parts["acc"] + RETRIEVAL_BONUS * (is_first and retrieved)
    else:
        score = 0.0 if is_first else BAD_FORMAT
    return StagedScore(
        score=score,
        acc=parts["acc"],
        format=parts["format"],
        retrieved=float(retrieved),
        stage=1.0 if is_first else 2.0,
        check_timeout=parts["check_timeout"],
        check_failed=parts["check_failed"],
        reason=parts["reason"],
    )


def step_of(extra_info: Any) -> int:
    """Return the training step that a reward function is told.

    Raises:
        ValueError: it is not told.
    """
    step = extra_info.get(STEP) if isinstance(extra_info, Mapping) else None
    if isinstance(step, bool) or not isinstance(step, int):
        raise ValueError(
            f"extra_info[{STEP!r}]={step!r}; expected the training step, which the rollout of arpo-verl passes: train "
            f"with algorithm.adv_estimator=arpo, arpo.rollout=tree or the agent loop tag_agent"
        )
    return step
