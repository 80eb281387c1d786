"""The output of every conversion: the counts of its rows, and a parquet file that appears when it is complete."""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

_ROWS_AT_A_TIME = 1000
_SHOWN_BAD_ROWS = 10


@dataclass
class RowCounts:
    """The counts of a conversion's rows: `read` is `written` plus the excluded and the bad ones."""

    read: int = 0
    written: int = 0
    excluded: Counter[str] = field(default_factory=Counter)
    """The number of excluded rows by reason."""
    bad: Counter[str] = field(default_factory=Counter)
    """The number of bad rows by fault."""
    bad_rows: list[str] = field(default_factory=list)
    """The first bad rows: file, row and fault."""

    def add_bad(self, where: str, error: Exception) -> None:
        """Count a bad row; `where` is its file and number."""
        self.bad[str(error)] += 1
        if len(self.bad_rows) < _SHOWN_BAD_ROWS:
            self.bad_rows.append(f"{where}: {error}")

    def refuse_bad_rows(self) -> None:
        """Raise a ValueError if a row is bad."""
        count = self.bad.total()
        if not count:
            return
        more = [f"... and {count - len(self.bad_rows)} more"] if count > len(self.bad_rows) else []
        raise ValueError(
            "\n  ".join([f"{count} of {self.read} rows are bad, nothing was written:", *self.bad_rows, *more])
            + "\nCorrect the file, or leave them out with --skip-bad-rows"
        )

    def refuse_empty_output(self, label: str) -> None:
        """Raise a ValueError if no row was written."""
        if self.written:
            return
        reasons = [f"{count} excluded: {reason}" for reason, count in self.excluded.items()]
        reasons += [f"{count} bad: {reason}" for reason, count in self.bad.items()]
        raise ValueError(
            f"{label}: no row is left of {self.read}, nothing was written; {'; '.join(reasons) or 'it is empty'}"
        )


def write_parquet(out: Path, schema: pa.Schema, rows: Iterable[dict[str, Any]], check: Callable[[], None]) -> None:
    """Write rows, and put the file in its place if `check` does not raise afterwards.

    Raises:
        Exception: what `rows` and `check` raise; then there is no new file.
        OSError: writing failed.
    """
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.{os.getpid()}")
    try:
        with pq.ParquetWriter(unfinished, schema) as writer:
            batch: list[dict[str, Any]] = []
            for row in rows:
                batch.append(row)
                if len(batch) == _ROWS_AT_A_TIME:
                    writer.write_table(pa.Table.from_pylist(batch, schema))
                    batch = []
            writer.write_table(pa.Table.from_pylist(batch, schema))
        check()
        unfinished.replace(out)
    finally:
        unfinished.unlink(missing_ok=True)
