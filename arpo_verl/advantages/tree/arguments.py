"""The estimator's arguments as tensors: what can be read in one way only is accepted, the rest is refused by name."""

from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any

import numpy as np
import torch

PADDING = -1
"""The segment id of a position that holds no token."""


def as_tensor(name: str, value: Any, device: torch.device | None = None) -> torch.Tensor:
    """Return a tensor, numpy array or nested list of numbers as a tensor, on `device` where one is given.

    Raises:
        ValueError: it holds something else than real numbers, or rows of different lengths.
    """
    if isinstance(value, torch.Tensor):
        tensor = value.detach()
    else:
        try:
            tensor = torch.from_numpy(np.array(value))
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"{name} is a {type(value).__name__} that is no array of numbers ({error}); expected a tensor: "
                f"convert it, and pad rows to one length"
            ) from None
    if tensor.is_nested or tensor.layout != torch.strided:
        layout = "nested" if tensor.is_nested else str(tensor.layout)
        raise ValueError(f"{name} is a {layout} tensor; expected a dense one: pad it, or call to_dense()")
    if tensor.is_complex():
        raise ValueError(f"{name} is of type {tensor.dtype}; expected real numbers: change it")
    return tensor if device is None else tensor.to(device)


def as_integers(name: str, value: Any, device: torch.device | None = None) -> torch.Tensor:
    """Return whole numbers, of whatever type, as a tensor of 64-bit integers.

    Raises:
        ValueError: they are truths or not whole.
    """
    tensor = as_tensor(name, value, device)
    if tensor.dtype == torch.bool:
        raise ValueError(f"{name} is of type {tensor.dtype}; expected whole numbers: pass ids, not a mask")
    if tensor.is_floating_point() and not bool((tensor.isfinite() & (tensor == tensor.round())).all()):
        raise ValueError(f"{name} holds numbers that are not whole; expected whole numbers: round or convert them")
    return tensor.long()


def as_flags(name: str, value: Any, rows: int, device: torch.device) -> torch.Tensor:
    """Return a truth for each row, given as truths or as 0 and 1; all false for None. Shape (rows,).

    Raises:
        ValueError: another shape, or values that are neither 0 nor 1.
    """
    if value is None:
        return torch.zeros(rows, dtype=torch.bool, device=device)
    flags = as_tensor(name, value, device)
    if flags.shape != (rows,):
        raise ValueError(
            f"{name} has the shape {tuple(flags.shape)}; expected ({rows},): pass one truth for each row of the batch"
        )
    if not bool(((flags == 0) | (flags == 1)).all()):
        raise ValueError(f"{name} holds other values than 0 and 1; expected one truth for each row, not row numbers")
    return flags.bool()


def group_numbers(index: Any, rows: int, device: torch.device) -> torch.Tensor:
    """Number the prompts from 0; equal ids, as Python compares them, are one prompt. Shape (rows,).

    Args:
        index: the prompt's id of each row: numbers, strings or whatever can be a dictionary's key; arrays and lists
            stand for the values in them.
        rows: how many ids are expected.
        device: where the result lies.

    Raises:
        ValueError: there are not `rows` ids, or one is missing (None or NaN) or can't be compared.
    """
    if isinstance(index, torch.Tensor):
        index = index.detach().cpu().numpy()
    if isinstance(index, (str, bytes, Mapping, Set)) or not isinstance(index, Iterable):
        raise ValueError(
            f"index is {index!r:.80}, a {type(index).__name__}; expected the prompt's id of each row, in order: pass a "
            f"list or an array"
        )
    if isinstance(index, np.ndarray) and index.ndim == 0:
        raise ValueError(f"index is the single value {index!r:.80}; expected the prompt's id of each row: pass a list")
    numbers: dict[Any, int] = {}
    keys = [_key(value, row) for row, value in enumerate(index)]
    if len(keys) != rows:
        raise ValueError(
            f"got {len(keys)} indices for {rows} rows; expected the prompt's id of each row: pass them all"
        )
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys], dtype=torch.long, device=device)


def _key(value: Any, row: int) -> Any:
    """Return a prompt's id as a dictionary's key."""
    if isinstance(value, (torch.Tensor, np.ndarray, np.generic)):
        value = value.tolist()
    if isinstance(value, (list, tuple)):
        return tuple(_key(part, row) for part in value)
    if _is_missing(value):
        raise ValueError(
            f"index[{row}] is {value!r}; expected an id that says which prompt the row belongs to: fill it in"
        )
    try:
        hash(value)
    except TypeError:
        raise ValueError(
            f"index[{row}] is a {type(value).__name__}, which can't be compared by its hash; expected a number, a "
            f"string or a tuple of them: convert it"
        ) from None
    return value


def _is_missing(value: Any) -> bool:
    """Whether a value is None or a kind of NaN: those do not equal themselves, or do not say whether they do."""
    try:
        return value is None or bool(value != value)
    except (TypeError, ValueError):
        return True


def divides_by_std(norm_by_std: bool, config: Any) -> bool:
    """Return whether to divide by the standard deviation: where neither the argument nor verl's group says no.

    Raises:
        ValueError: the argument is no truth.
    """
    if norm_by_std not in (True, False):
        raise ValueError(f"norm_by_std={norm_by_std!r}; expected True or False: change it")
    name = "norm_adv_by_std_in_grpo"
    chosen = config.get(name) if hasattr(config, "get") else getattr(config, name, None)
    return bool(norm_by_std) and (chosen is None or bool(chosen))


def require_equal_shapes(tensors: Mapping[str, torch.Tensor], dimensions: Sequence[str]) -> None:
    """Check that all tensors have one shape, of as many dimensions as there are names.

    Raises:
        ValueError: they have not.
    """
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1 or len(next(iter(shapes.values()))) != len(dimensions):
        raise ValueError(f"got the shapes {shapes}; expected one shape ({', '.join(dimensions)}): make them equal")
