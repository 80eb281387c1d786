"""Keeps rows of past steps, first in first out, bounded for each task and in all."""

from collections import OrderedDict, defaultdict
from collections.abc import Callable, Iterable

from arpo_verl.replay.store.row import StoredRow


class RowStore:
    """Rows in the order in which they came.

    What it holds is bounded by `capacity` rows of at most `data.max_response_length` tokens each, 21 bytes a token.
    """

    def __init__(self, per_task: int, capacity: int, max_age: int | None = None) -> None:
        """
        Args:
            per_task: rows of one task; above it the task's oldest goes.
            capacity: rows of all tasks together; above it the oldest of all goes.
            max_age: in steps; None keeps rows of any age.
        """
        self._per_task, self._capacity, self._max_age = per_task, capacity, max_age
        self._rows: OrderedDict[int, StoredRow] = OrderedDict()
        self._of_task: dict[str, list[int]] = defaultdict(list)
        self._number_of: dict[tuple[str, bytes], int] = {}
        """By task and digest of the tokens."""
        self._next = 0

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> list[StoredRow]:
        """All rows, the oldest first."""
        return list(self._rows.values())

    @property
    def tasks(self) -> int:
        """How many tasks have a row."""
        return len(self._of_task)

    def of_task(self, task: str) -> list[StoredRow]:
        """Return a task's rows, the oldest first."""
        return [self._rows[number] for number in self._of_task.get(task, ())]

    def add(self, rows: Iterable[StoredRow]) -> None:
        """Keep rows, which takes the place of rows with the same tokens of the same task."""
        for row in rows:
            same = self._number_of.get((row.task, row.digest))
            if same is not None:
                self._remove(same)
            self._number_of[row.task, row.digest] = self._next
            self._rows[self._next] = row
            self._of_task[row.task].append(self._next)
            self._next += 1
            if len(self._of_task[row.task]) > self._per_task:
                self._remove(self._of_task[row.task][0])
            if len(self._rows) > self._capacity:
                self._remove(next(iter(self._rows)))

    def forget(self, step: int) -> None:
        """Drop the rows that are too old for a step."""
        if self._max_age is not None:
            self.keep_only(lambda row: step - row.step <= (self._max_age or 0))

    def keep_only(self, is_kept: Callable[[StoredRow], bool]) -> None:
        """Drop the rows of which `is_kept` says no."""
        for number in [number for number, row in self._rows.items() if not is_kept(row)]:
            self._remove(number)

    def _remove(self, number: int) -> None:
        row = self._rows.pop(number)
        del self._number_of[row.task, row.digest]
        self._of_task[row.task].remove(number)
        if not self._of_task[row.task]:
            del self._of_task[row.task]
