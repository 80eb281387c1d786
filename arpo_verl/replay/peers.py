"""Rollouts of other runs, from a directory that they share (SAPO in RL Swarm, arXiv 2509.08721).

Each run trains on I own and J foreign rollouts of a group; 4 and 4 did best in the paper. Each step's leaves are
written to a file in the shared directory, as a whole or not at all, and files of others are read from there.

Deviations: rows are shared as token ids, so that peers need the same tokenizer (the paper's share text); their rewards
are taken as they are, not computed again; foreign rows take the place of own ones of the same task and count in the
group's statistics. What there is of others depends on when they run, so that no two runs choose the same.
"""

import logging
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from arpo_verl.replay.store.files import ReplayFileError, read_rows, write_rows
from arpo_verl.replay.store.group import Group, GroupLeaf, leaves_to_replace
from arpo_verl.replay.store.row import StoredRow, problem_of
from arpo_verl.replay.store.row_store import RowStore
from arpo_verl.replay.store.source import (
    ReplayContext,
    ReplaySource,
    State,
    Use,
    in_order,
    make_trigger,
    require_count,
    require_old_log_prob,
    require_one_of,
)

logger = logging.getLogger(__name__)

FILE = re.compile(r"(?P<name>[A-Za-z0-9.-]+)_step_(?P<step>\d+)\.npz")
"""Names of the files of the directory that are peers'."""


class Peers(ReplaySource):
    """Writes this run's leaves to a directory and puts those of others into its groups."""

    def __init__(  # noqa: PLR0913  settings
        self,
        context: ReplayContext,
        *,
        directory: str,
        name: str,
        success: float | None = None,
        trigger: str = "always",
        std_below: float = 0.05,
        mean_below: float = 0.2,
        foreign: int | None = None,
        publish: str = "all",
        capacity: int = 8192,
        max_age: int = 10,
        old_log_prob: str = "current",
    ) -> None:
        """
        Args:
            context: the run.
            directory: the shared one.
            name: this run's among its peers, of letters, digits, `.` and `-`.
            success: the reward from which a leaf is a success; needed.
            trigger: `always`, any leaf by any; `all_failed`, those of groups that fail as a whole, by successes.
            std_below, mean_below: a group fails as a whole below them.
            foreign: J, leaves of a group that are replaced at most; null for half of them.
            publish: `all` leaves that count, or `successes`.
            capacity: foreign rows that are kept; the oldest go.
            max_age: in steps of the peer; older files of one's own are removed.
            old_log_prob: `current`, `stored` or `probability`.

        Raises:
            ValueError: a setting is not what it has to be.
        """
        super().__init__(context)
        self._trigger = make_trigger(trigger, success, std_below, mean_below)
        self.needs_failed_groups = self._trigger.when == "all_failed"
        for count, value in (("foreign", foreign), ("capacity", capacity), ("max_age", max_age)):
            require_count(count, value, or_null=count == "foreign")
        require_one_of("publish", publish, ("all", "successes"))
        self.old_log_prob = require_old_log_prob(old_log_prob)
        self._name, self._directory, self._max_age = _usable_name(name), _usable(Path(directory)), max_age
        self._foreign = context.leaves // 2 if foreign is None else foreign
        self._publishes_all = publish == "all"
        self._store = RowStore(capacity, capacity)
        self._seen: set[str] = set()
        self._newest: dict[str, int] = {}
        self._bad_files = self._bad_rows = self._failed_writes = 0

    def keeps(self, reward: float, advantage: float) -> bool:
        return self._publishes_all or reward >= self._trigger.success

    def finish(self, rows: Sequence[StoredRow], means: Sequence[float], step: int) -> None:
        path = self._directory / f"{self._name}_step_{step}.npz"
        try:
            write_rows(path, State(rows), self.context.tokenizer)
            for old, _, its_step in self._files():
                if old.name.startswith(f"{self._name}_step_") and step - its_step > self._max_age:
                    old.unlink(missing_ok=True)
        except OSError:
            # A directory that is full or gone for a while must not end a run.
            self._failed_writes += 1
            logger.exception("the leaves of step %d could not be written to %s", step, path)

    def choose(self, groups: Sequence[Group], step: int) -> list[Use]:
        self._read_new_files()
        uses = []
        for group, generator in in_order(groups, self.context.seed, step):
            rows = [row for row in self._store.of_task(group.task) if self._is_wanted(row)]
            if not rows or not self._trigger.fires(group):
                continue
            leaves = self._replaceable(group)[: self._foreign]
            chosen = generator.sample(rows, min(len(leaves), len(rows)))
            uses += [
                Use(row, leaf, old_log_prob=self.old_log_prob, age=self._newest[row.origin] - row.step)
                for row, leaf in zip(chosen, leaves, strict=False)
            ]
        return uses

    def _is_wanted(self, row: StoredRow) -> bool:
        return (not self.needs_failed_groups or row.reward >= self._trigger.success) and (
            self.old_log_prob != "stored" or row.old_log_probs is not None
        )

    def _replaceable(self, group: Group) -> list[GroupLeaf]:
        return leaves_to_replace(group, self._trigger.success) if self.needs_failed_groups else leaves_to_replace(group)

    def _files(self) -> Iterator[tuple[Path, str, int]]:
        """Yield the directory's files with their peers and steps, the oldest steps first."""
        found = []
        for path in self._directory.iterdir():
            match = FILE.fullmatch(path.name)
            if match:
                found.append((int(match["step"]), match["name"], path))
        yield from ((path, name, step) for step, name, path in sorted(found))

    def _read_new_files(self) -> None:
        try:
            there = [one for one in self._files() if one[1] != self._name]
        except OSError:
            self._bad_files += 1
            logger.exception("the directory of peers %s could not be read", self._directory)
            return
        for _, name, step in there:
            self._newest[name] = max(step, self._newest.get(name, step))
        for path, name, step in there:
            if path.name not in self._seen and self._newest[name] - step <= self._max_age:
                self._read(path, name, step)
        self._seen = {path.name for path, _, _ in there}
        self._store.keep_only(lambda row: self._newest[row.origin] - row.step <= self._max_age)

    def _read(self, path: Path, name: str, step: int) -> None:
        try:
            rows = read_rows(path, self.context.tokenizer, name, step).rows
        except ReplayFileError as error:
            self._bad_files += 1
            logger.warning("a file of peers is left out: %s", error)
            return
        good = [row for row in rows if problem_of(row, self.context.limits) is None]
        self._bad_rows += len(rows) - len(good)
        self._store.add(good)

    def metrics(self) -> dict[str, float]:
        return {
            "stored": len(self._store),
            "tasks": self._store.tasks,
            "peers": len(self._newest),
            "bad_files": self._bad_files,
            "bad_rows": self._bad_rows,
            "failed_writes": self._failed_writes,
        }


def _usable_name(name: str) -> str:
    if not FILE.fullmatch(f"{name}_step_1.npz"):
        raise ValueError(
            f"arpo.replay_kwargs.name={name!r}; expected letters, digits, '.' and '-' that no peer is called by: "
            f"change it"
        )
    return name


def _usable(directory: Path) -> Path:
    """Return a directory that is there and can be written to; it is made where it is missing.

    Raises:
        ValueError: it can't be.
    """
    probe = directory / ".arpo_verl_probe"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        probe.write_bytes(b"")
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise ValueError(
            f"arpo.replay_kwargs.directory={str(directory)!r} can't be written to ({error}); expected a directory that "
            f"all peers share: correct the path or its permissions"
        ) from error
    return directory
