"""Benchmarks of one's own by the dotted path of their `Dataset`, beside those of the catalog."""

import argparse
import difflib

from arpo_tools import dotted_path
from arpo_verl.data.catalog import DATASETS, Dataset


def dataset_named(name: str) -> Dataset:
    """Return a dataset of the catalog by its name, or somebody's own by its dotted path: a `type` for argparse.

    Raises:
        argparse.ArgumentTypeError: there is none.
    """
    if name in DATASETS:
        return DATASETS[name]
    if not dotted_path.is_dotted(name):
        near = difflib.get_close_matches(name, DATASETS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"expected one of {', '.join(DATASETS)}"
        raise argparse.ArgumentTypeError(f"{name!r} is no known dataset, {hint} Or give a dotted path of your own.")
    try:
        dataset = dotted_path.load(name, "dataset")
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if not isinstance(dataset, Dataset):
        raise argparse.ArgumentTypeError(
            f"{name} is of type {type(dataset).__name__}; expected an arpo_verl.data.catalog.Dataset: correct the path"
        )
    return dataset
