"""The known datasets, one entry each. Adding a benchmark is adding an entry, or naming a `Dataset` by its dotted path.

Field names need no entry where they are among `fields.QUESTION`, `fields.ANSWER` and `fields.ID`. Hub ids, counts and
licences are those of the public pages; where a page states no licence the entry says so.
"""

import argparse
import base64
import binascii
import difflib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import cycle
from typing import Any

from arpo_tools import dotted_path
from arpo_verl.data.answers import (
    answer_after_hashes,
    answer_or_boxed,
    answers_of_any_shape,
    answers_with_aliases,
    contest_answer,
    plain_answers,
)
from arpo_verl.data.fields import Fields


@dataclass(frozen=True)
class Exclusion:
    """A kind of rows that no run can use. They are counted and reported, and are not faults of the file."""

    field: str
    applies: Callable[[Any], bool]
    """Whether a row with this value of the field is excluded; the value is None if the row has no such field."""
    reason: str


@dataclass(frozen=True)
class Dataset:
    """A public dataset and how to read its rows."""

    name: str
    """Its name, which is also the `data_source` of its rows."""
    what: str
    ability: str | None
    """`math` or `qa`, by which the reward compares answers; None: the rows say."""
    licence: str
    hub_id: str | None = None
    hub_config: str | None = None
    split: str = "test"
    rows: int | None = None
    """The number of the split's rows, excluded ones included."""
    answers: Callable[[Fields], list[str]] = plain_answers
    level: tuple[str, ...] = ("level",)
    """Fields by which reports can be split; the first that a row has is used."""
    exclusions: tuple[Exclusion, ...] = ()
    decode: Callable[[Mapping[Any, Any]], Mapping[Any, Any]] | None = None
    """A function that decodes a row before it is read."""
    keeps_data_source: bool = False
    """Whether the rows name their data source, as they come from several ones."""


def xbench_decoded(row: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return a row of xbench with question and answer in the clear.

    They are published as base64 of the UTF-8 text, combined by exclusive or with the row's `canary`, over and over. A
    row whose prompt is no such thing has been decoded before.
    """
    fields = Fields(row)
    key = fields.get("canary")
    try:
        return {**row, **{name: _decoded(fields.get(name), key) for name in ("prompt", "answer")}}
    except (AttributeError, TypeError, ValueError, binascii.Error):
        return row


def _decoded(text: str, key: str) -> str:
    encoded = base64.b64decode(text, validate=True)
    return bytes(byte ^ mask for byte, mask in zip(encoded, cycle(key.encode()), strict=False)).decode()


_IMAGE = Exclusion("image", bool, "it has an image, which a text model can't see")
_FILE = Exclusion("file_name", bool, "it comes with a file, which no tool here can open")
_HIDDEN = Exclusion("final_answer", lambda answer: answer == "?", "its answer is not public (GAIA's test split)")
_ON_PURPOSE = "it can't be answered, on purpose"
_UNANSWERABLE = Exclusion("answerable", lambda answerable: answerable is False, _ON_PURPOSE)
_IMPOSSIBLE = Exclusion("is_impossible", lambda is_impossible: is_impossible is True, _ON_PURPOSE)
_WITHOUT_TEXT = Exclusion(
    "answers", lambda answers: isinstance(answers, Mapping) and answers.get("text") == [], _ON_PURPOSE
)
"""SQuAD 2 on the Hub."""

DATASETS = {
    dataset.name: dataset
    for dataset in (
        Dataset(
            "arpo-reasoning",
            "RL prompts of the ARPO release, maths and QA",
            None,
            "see the Hub",
            "dongguanting/ARPO-RL-Reasoning-10K",
            split="train",
            rows=10_000,
            keeps_data_source=True,
        ),
        Dataset(
            "arpo-deepsearch",
            "deep-search prompts of the ARPO release",
            "qa",
            "see the Hub",
            "dongguanting/ARPO-RL-DeepSearch-1K",
            split="train",
            rows=1_071,
            keeps_data_source=True,
        ),
        Dataset(
            "arpo-validation",
            "the release's validation files, rows in verl's columns",
            None,
            "unstated",
            split="validation",
            keeps_data_source=True,
        ),
        Dataset(
            "gsm8k",
            "grade-school maths",
            "math",
            "MIT",
            "openai/gsm8k",
            "main",
            rows=1_319,
            answers=answer_after_hashes,
        ),
        Dataset(
            "math500",
            "500 competition problems of MATH",
            "math",
            "MIT (prm800k)",
            "HuggingFaceH4/MATH-500",
            rows=500,
            answers=answer_or_boxed,
        ),
        Dataset(
            "aime24",
            "AIME 2024, I and II",
            "math",
            "unstated",
            "HuggingFaceH4/aime_2024",
            split="train",
            rows=30,
            answers=contest_answer,
        ),
        Dataset("aime25", "AIME 2025, I and II", "math", "unstated", "math-ai/aime25", rows=30, answers=contest_answer),
        Dataset(
            "hotpotqa",
            "two-hop questions on Wikipedia",
            "qa",
            "CC BY-SA 4.0",
            "hotpotqa/hotpot_qa",
            "distractor",
            split="validation",
            rows=7_405,
            answers=answers_with_aliases,
        ),
        Dataset(
            "2wiki",
            "2WikiMultiHopQA, two- to four-hop questions",
            "qa",
            "Apache-2.0",
            "xanhho/2WikiMultihopQA",
            split="validation",
            rows=12_576,
            answers=answers_with_aliases,
            level=("level", "type"),
        ),
        Dataset(
            "musique",
            "two- to four-hop questions that need every hop",
            "qa",
            "CC BY 4.0",
            "dgslibisey/MuSiQue",
            split="validation",
            rows=2_417,
            answers=answers_with_aliases,
            exclusions=(_UNANSWERABLE,),
        ),
        Dataset(
            "bamboogle",
            "two-hop questions a search engine gets wrong",
            "qa",
            "MIT",
            "chiayewken/bamboogle",
            rows=125,
            answers=answers_with_aliases,
        ),
        Dataset("simpleqa", "short fact-seeking questions", "qa", "MIT", "basicv8vc/SimpleQA", rows=4_326),
        Dataset(
            "webwalkerqa",
            "questions answered by walking through a site",
            "qa",
            "Apache-2.0",
            "callanwu/WebWalkerQA",
            split="main",
            rows=680,
            level=("info.difficulty_level", "difficulty_level", "level"),
        ),
        Dataset(
            "gaia",
            "questions for general assistants",
            "qa",
            "gated, not to be reshared",
            "gaia-benchmark/GAIA",
            "2023_all",
            split="validation",
            rows=165,
            exclusions=(_FILE, _HIDDEN),
        ),
        Dataset(
            "hle",
            "Humanity's Last Exam, text questions",
            "qa",
            "MIT, gated, not to be reshared",
            "cais/hle",
            rows=2_500,
            level=("category", "level"),
            exclusions=(_IMAGE,),
        ),
        Dataset(
            "xbench-deepsearch",
            "Chinese deep-search questions, published encoded",
            "qa",
            "see the Hub",
            "xbench/DeepSearch",
            split="train",
            rows=100,
            decode=xbench_decoded,
        ),
        Dataset(
            "custom",
            "rows of anybody's: questions and answers, messages, verl's columns",
            None,
            "yours",
            split="train",
            answers=answers_of_any_shape,
            exclusions=(_UNANSWERABLE, _IMPOSSIBLE, _WITHOUT_TEXT),
            keeps_data_source=True,
        ),
    )
}
"""The known datasets by name."""


def find_dataset(name: str) -> Dataset:
    """Return a dataset of the catalog by its name, or a user's own by its dotted path: a `type` for argparse.

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
