"""The runs of a packed sequence as attention needs them, and the place where attention finds them.

transformers calls an attention function with a layer's queries, keys and values and with no way to hand it more, so the
runs of the sequence that is being computed are kept here, for the process. They stay until the backward pass is over: a
checkpointed layer computes its attention again in it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import accumulate

import torch

from arpo_verl.packing.pack import Pack


@dataclass(frozen=True)
class Runs:
    """Queries are the packed sequence; a run's keys are its row's path, gathered by `keys`."""

    own: Sequence[int]
    """Queries of each run."""
    lengths: Sequence[int]
    """Keys of each run."""
    keys: torch.Tensor
    """Places of the keys in the packed sequence, run after run. Shape (keys,)."""
    query_begins: torch.Tensor
    """Where each run's queries begin, and where the last one's end. Shape (runs + 1,), int32."""
    key_begins: torch.Tensor
    """Where each run's keys begin among the gathered ones, and where the last one's end. Shape (runs + 1,), int32."""
    _masks: dict[tuple[int, int, int | None], torch.Tensor] = field(default_factory=dict, repr=False)

    @classmethod
    def of(cls, pack: Pack, device: torch.device, padding: int = 0) -> "Runs":
        """Return the runs of a packed sequence after which `padding` tokens follow, a run of their own."""
        own = [run.own for run in pack.runs] + [padding] * (padding > 0)
        lengths = [run.length for run in pack.runs] + [padding] * (padding > 0)
        keys = torch.cat([pack.keys(), torch.arange(len(pack), len(pack) + padding)])
        return cls(own, lengths, keys.to(device), _begins(own, device), _begins(lengths, device))

    @property
    def share_nothing(self) -> bool:
        """Whether each run's keys are its own tokens, so that none has to be gathered."""
        return self.own == self.lengths

    def mask(self, own: int, length: int, window: int | None, device: torch.device) -> torch.Tensor:
        """Return which keys a run's queries see: causal, aligned at the end; within a window of the last keys, if any.

        Returns:
            Shape (own, length), boolean. Runs alike share it.
        """
        kind = (own, length, window)
        if kind not in self._masks:
            mask = torch.ones(own, length, dtype=torch.bool, device=device).tril(length - own)
            self._masks[kind] = mask if window is None else mask.triu(length - own - window + 1)
        return self._masks[kind]


def _begins(sizes: Sequence[int], device: torch.device) -> torch.Tensor:
    return torch.tensor([0, *accumulate(sizes)], dtype=torch.int32).to(device)


_current: Runs | None = None


def use(runs: Runs | None) -> None:
    """Let attention compute a sequence by these runs from here on; None: no packed sequence is being computed."""
    global _current
    _current = runs


def current(queries: int) -> Runs:
    """Return the runs of the sequence that is being computed.

    Args:
        queries: those that the layer has.

    Raises:
        RuntimeError: there are none, or they have another number of queries.
    """
    expected = None if _current is None else sum(_current.own)
    if _current is None or expected != queries:
        raise RuntimeError(
            f"attention by runs got {queries} queries; expected {expected} as the packed sequence has: a model that "
            f"adds or drops tokens inside can't be packed, set arpo.pack_trees=off"
        )
    return _current
