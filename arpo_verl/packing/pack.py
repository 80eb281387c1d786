"""Rows laid into one sequence in which each token that they share stands once.

Each row adds a run to the sequence: what it does not share with the row before it in the depth-first walk, and the last
shared token once more. A run's queries see the row's whole path, in the order of depth, and nothing else. The position
of a token is its place in its row, not in the sequence.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch

from arpo_verl.packing.depth_first import DepthFirst, Tokens


@dataclass(frozen=True)
class Run:
    """What a row adds to the packed sequence, at its end."""

    row: int
    """Place of the row among those given."""
    own: int
    """Tokens that it adds, which are the run's queries."""
    length: int
    """Tokens of the row, which are the run's keys."""


@dataclass(frozen=True)
class Pack:
    """Where the tokens of rows stand in their packed sequence, and back."""

    source: torch.Tensor
    """For each token of the packed sequence its place in the rows laid end to end. Shape (packed,)."""
    places: torch.Tensor
    """For each token of the rows laid end to end its place in the packed sequence. Shape (row tokens,)."""
    lengths: Sequence[int]
    """Tokens of the rows, in the order given."""
    runs: Sequence[Run]
    """In the order of the packed sequence."""

    @classmethod
    def of(cls, rows: Sequence[Tokens]) -> "Pack":
        """Pack rows.

        Raises:
            ValueError: a row has no token.
        """
        walk = DepthFirst.of(rows)
        lengths = [len(row) for row in rows]
        begins = [0, *accumulate(lengths)]
        places = np.empty(begins[-1], dtype=np.int64)
        source, runs, packed = [], [], 0
        path = np.empty(0, dtype=np.int64)
        for row, length, shared in zip(walk.rows, walk.lengths, walk.shared, strict=True):
            own = length - shared
            path = np.concatenate([path[:shared], np.arange(packed, packed + own)])
            places[begins[row] : begins[row] + length] = path
            source.append(np.arange(begins[row] + shared, begins[row] + length))
            runs.append(Run(row, own, length))
            packed += own
        return cls(torch.from_numpy(np.concatenate(source)), torch.from_numpy(places), lengths, runs)

    def __len__(self) -> int:
        """Return how many tokens the packed sequence has."""
        return len(self.source)

    def keys(self) -> torch.Tensor:
        """Return the places of the keys of all runs in the packed sequence, run after run. Shape (row tokens,)."""
        rows = torch.split(self.places, list(self.lengths))
        return torch.cat([rows[run.row] for run in self.runs])

    def mask(self) -> torch.Tensor:
        """Return which key each query sees. Shape (packed, packed), boolean.

        For checks and drawings: attention is computed run by run (`runs.py`), without it.
        """
        seen = torch.zeros(len(self), len(self), dtype=torch.bool)
        rows, begin = torch.split(self.places, list(self.lengths)), 0
        for run in self.runs:
            path = rows[run.row]
            for query in range(run.own):
                seen[begin + query, path[: run.length - run.own + query + 1]] = True
            begin += run.own
        return seen
