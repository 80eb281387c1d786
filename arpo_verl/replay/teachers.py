"""Correct traces of teachers, put into groups that fail as a whole (AMPO, arXiv 2510.02227).

Where all leaves of a prompt fail, some are replaced by teachers' correct traces. Statistics are over the on-policy
leaves alone. A trace has no log-probabilities of its sampler, and its ratio is the probability of its tokens itself,
which no clip touches, since it never exceeds 1.

Deviations: the trace's advantage is its reward less the mean of the on-policy leaves, without a division by their
deviation, which in a group that fails as a whole is next to nothing. The released code's other ratio, π / (π + 0.1), is
left out. The file's traces are taken for correct: nothing grades them.
"""

from collections import defaultdict
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from statistics import fmean

import numpy as np

from arpo_verl.replay.store.group import Group, GroupLeaf, leaves_to_replace, task_digest
from arpo_verl.replay.store.row import StoredRow, problem_of
from arpo_verl.replay.store.source import (
    ReplayContext,
    ReplaySource,
    Trace,
    Use,
    in_order,
    make_trigger,
    require_count,
    require_number,
    require_old_log_prob,
    require_one_of,
)


class Teachers(ReplaySource):
    """Puts traces of a file into groups of the same prompt."""

    def __init__(  # noqa: PLR0913  settings
        self,
        context: ReplayContext,
        *,
        file: str,
        success: float | None = None,
        trigger: str = "all_failed",
        std_below: float = 0.05,
        mean_below: float = 0.2,
        reward: float = 1.0,
        per_group: int = 1,
        statistics: str = "on_policy",
        old_log_prob: str = "probability",
        weight: float = 1.0,
    ) -> None:
        """
        Args:
            context: the run.
            file: a parquet that `arpo-verl data traces` has written.
            success: the reward from which a leaf is a success; needed.
            trigger: `all_failed` or `always`.
            std_below, mean_below: a group fails as a whole below them.
            reward: that of a trace.
            per_group: traces for one group, at most.
            statistics: `on_policy`, over the leaves that were grown, or `group`, with the traces.
            old_log_prob: `probability` or `current`.
            weight: factor of a trace's policy loss.

        Raises:
            ValueError: a setting is not what it has to be, or there is no such file.
        """
        super().__init__(context)
        self._trigger = make_trigger(trigger, success, std_below, mean_below)
        self.needs_failed_groups = self._trigger.when == "all_failed"
        require_number("reward", reward)
        require_number("weight", weight)
        require_count("per_group", per_group)
        require_one_of("statistics", statistics, ("on_policy", "group"))
        self.old_log_prob = require_old_log_prob(old_log_prob, ("probability", "current"))
        if not Path(file).is_file():
            raise ValueError(
                f"arpo.replay_kwargs.file={file!r}: there is no such file; expected a parquet that `arpo-verl data "
                f"traces` has written: correct the path"
            )
        self._file, self._reward, self._per_group = file, float(reward), per_group
        self._is_on_policy, self._weight = statistics == "on_policy", float(weight)
        self._of_prompt: dict[str, list[StoredRow]] = defaultdict(list)
        self._too_long = 0

    def begin(self, context: ReplayContext) -> None:
        super().begin(context)
        assert context.encode_traces is not None, "the tokenizer has not been loaded"
        for trace in context.encode_traces(self._file):
            row = self._row(trace)
            if row is None or problem_of(row, context.limits):
                self._too_long += 1
            else:
                self._of_prompt[row.task].append(row)
        if not self._of_prompt:
            raise ValueError(
                f"arpo.replay_kwargs.file={self._file!r}: none of {self._too_long} traces can be trained on; expected "
                f"prompts of at most {context.limits.prompt_tokens} tokens and responses of at most "
                f"{context.limits.response_tokens}: raise data.max_prompt_length or data.max_response_length, or "
                f"choose other traces"
            )

    def _row(self, trace: Trace) -> StoredRow | None:
        ids, mask = trace
        begin = next((at for at, is_sampled in enumerate(mask) if is_sampled), 0)
        if not begin:
            return None
        sampled = [bool(one) for one in mask[begin:]]
        lengths = [len(list(run)) for _, run in groupby(sampled)]
        scores = np.zeros(len(sampled), dtype=np.float32)
        scores[-1] = self._reward
        return StoredRow(
            task=task_digest(ids[:begin]),
            step=0,
            reward=self._reward,
            prompt_ids=np.array(ids[:begin], dtype=np.int32),
            response_ids=np.array(ids[begin:], dtype=np.int32),
            mask=np.array(sampled),
            segments=np.repeat(np.arange(len(lengths), dtype=np.int32), lengths),
            scores=scores,
            turns=len(lengths) + 1,
            origin="teacher",
        )

    def choose(self, groups: Sequence[Group], step: int) -> list[Use]:
        uses = []
        for group, generator in in_order(groups, self.context.seed, step):
            rows = self._of_prompt.get(group.prompt, [])
            if rows and self._trigger.fires(group):
                leaves = leaves_to_replace(group, self._trigger.success)[: self._per_group]
                chosen = generator.sample(rows, min(len(leaves), len(rows)))
                replaced = leaves[: len(chosen)]
                advantage = self._advantage(group, replaced) if self._is_on_policy else None
                uses += [
                    Use(row, leaf, advantage, self.old_log_prob, self._weight)
                    for row, leaf in zip(chosen, replaced, strict=True)
                ]
        return uses

    def _advantage(self, group: Group, replaced: Sequence[GroupLeaf]) -> float:
        return self._reward - fmean(leaf.reward for leaf in group.counted if leaf not in replaced)

    def metrics(self) -> dict[str, float]:
        stored = sum(map(len, self._of_prompt.values()))
        return {"stored": stored, "tasks": len(self._of_prompt), "too_long": self._too_long}
