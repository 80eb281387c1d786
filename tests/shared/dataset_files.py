"""Small files in the shapes of the public datasets, with invented rows, and what their converters make of them."""

import base64
import csv
import json
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

RELEASED_PROMPT = "Use <search> </search> and <python> </python>, then <answer> \x08oxed{answer here} </answer>."
"""As the release has it: the \\b of \\boxed was read as an escape."""


@dataclass(frozen=True)
class Case:
    """A file of one dataset."""

    name: str
    suffix: str
    rows: list[dict[str, Any]]
    questions: list[str]
    answers: list[list[str]]
    levels: list[str]
    excluded: int = 0
    data_sources: set[str] = field(default_factory=set)
    """If they are not the dataset's name."""
    arguments: tuple[str, ...] = ()


def released_row(source: str, question: str, truth: str, **columns: Any) -> dict[str, Any]:
    return {
        "data_source": source,
        "prompt": [{"content": RELEASED_PROMPT, "role": "system"}, {"content": question, "role": "user"}],
        "ability": None,
        "reward_model": {"ground_truth": truth},
        "extra_info": {"index": 0, "question": question, "split": "train"},
        "metadata": None,
        **columns,
    }


def encoded(text: str, canary: str) -> str:
    """Encode as xbench does."""
    return base64.b64encode(bytes(a ^ b for a, b in zip(text.encode(), cycle(canary.encode()), strict=False))).decode()


def hle_row(question: str, answer: str, category: str, image: str = "") -> dict[str, Any]:
    own_id = f"66{len(question):04x}"
    return {
        "id": own_id,
        "question": question,
        "image": image,
        "image_preview": None,
        "answer": answer,
        "answer_type": "exactMatch",
        "author_name": "A. B.",
        "rationale": "Because.",
        "category": category,
    }


def gaia_row(question: str, answer: str, level: int, file_name: str = "") -> dict[str, Any]:
    return {
        "task_id": f"c61d22de-{len(question):04x}",
        "Question": question,
        "Level": level,
        "Final answer": answer,
        "file_name": file_name,
        "Annotator Metadata": {"Steps": "1. Search."},
    }


CASES = [
    Case(
        "arpo-reasoning",
        ".parquet",
        [
            released_row("DR_grpo_mix", "What is $2^5$?", "32", ability="math"),
            released_row("DR_grpo_mix", "Where is Ulm?", "Ulm, Germany", ability="qa"),
        ],
        ["What is $2^5$?", "Where is Ulm?"],
        [["32"], ["Ulm, Germany"]],
        ["", ""],
        data_sources={"DR_grpo_mix"},
    ),
    Case(
        "arpo-deepsearch",
        ".parquet",
        [
            released_row("DR_simpledeepsearch0.8k", "who drew the map of ulm", "A. Maler"),
            released_row("DR_nan", "Which monk wrote on the Danube?", "Felix Fabri"),
        ],
        ["who drew the map of ulm", "Which monk wrote on the Danube?"],
        [["A. Maler"], ["Felix Fabri"]],
        ["", ""],
        data_sources={"DR_simpledeepsearch0.8k", "DR_nan"},
    ),
    Case(
        "arpo-validation",
        ".parquet",
        [released_row("DR_gaia", "How many gates had Ulm?", "7"), released_row("DR_hle", "Name the gate.", "Goose")],
        ["How many gates had Ulm?", "Name the gate."],
        [["7"], ["Goose"]],
        ["", ""],
        data_sources={"DR_gaia", "DR_hle"},
        arguments=("--ability", "qa"),
    ),
    Case(
        "gsm8k",
        ".jsonl",
        [
            {"question": "Tom has 2 boxes of 4.  How many?", "answer": "2*4 = <<2*4=8>>8\n#### 8", "idx": 0},
            {"question": "A house costs 57500 dollars. How much?", "answer": "#1\n#### 57,500", "idx": 1},
            {"question": "How cold is it?", "answer": "#### -3"},
        ],
        ["Tom has 2 boxes of 4.  How many?", "A house costs 57500 dollars. How much?", "How cold is it?"],
        [["8"], ["57500"], ["-3"]],
        ["", "", ""],
    ),
    Case(
        "math500",
        ".jsonl",
        [
            {
                "problem": "Find $x$.",
                "solution": "So \\boxed{2}.",
                "answer": "\\frac{1}{2}",
                "subject": "Algebra",
                "level": 5,
                "unique_id": "test/algebra/1.json",
            },
            {"problem": "Find $y$.", "solution": "First \\boxed{1}, then $\\boxed{\\frac{3}{4}}$.", "level": "Level 2"},
        ],
        ["Find $x$.", "Find $y$."],
        [["\\frac{1}{2}"], ["\\frac{3}{4}"]],
        ["5", "Level 2"],
    ),
    Case(
        "aime24",
        ".parquet",
        [
            {
                "id": 60,
                "problem": "Walk.",
                "solution": "s",
                "answer": "204",
                "url": "https://x.example",
                "year": "2024",
            },
            {"id": 61, "problem": "Sum.", "solution": "s", "answer": "025", "url": "https://x.example", "year": "2024"},
        ],
        ["Walk.", "Sum."],
        [["204"], ["025"]],
        ["", ""],
    ),
    Case(
        "aime25",
        ".jsonl",
        [{"problem": "Bases.", "answer": 70, "id": "0"}, {"question": "Area.", "answer": 588.0}],
        ["Bases.", "Area."],
        [["70"], ["588"]],
        ["", ""],
    ),
    Case(
        "hotpotqa",
        ".json",
        [
            {
                "_id": "5a8b",
                "answer": "yes",
                "question": "Were A and B of one nationality?",
                "supporting_facts": [["A", 0]],
                "context": [["A", ["A was."]]],
                "type": "comparison",
                "level": "hard",
            },
            {"question": "Who was born first?", "answer": ["Frank Lowy", "F. Lowy"]},
        ],
        ["Were A and B of one nationality?", "Who was born first?"],
        [["yes"], ["Frank Lowy", "F. Lowy"]],
        ["hard", ""],
    ),
    Case(
        "2wiki",
        ".json",
        [
            {
                "_id": "13f5",
                "type": "compositional",
                "question": "Who is the mother of the director?",
                "context": [["T", ["s"]]],
                "evidences": [["f", "director", "d"]],
                "answer": "Anna",
                "answer_id": "Q1",
                "evidences_id": [["Q3", "director", "Q4"]],
            },
            {"id": "x", "question": "Where?", "golden_answers": ["Ulm", "Ulm (Donau)"], "metadata": {"type": "bridge"}},
        ],
        ["Who is the mother of the director?", "Where?"],
        [["Anna"], ["Ulm", "Ulm (Donau)"]],
        ["compositional", ""],
    ),
    Case(
        "musique",
        ".jsonl",
        [
            {
                "id": "2hop__1_2",
                "paragraphs": [{"idx": 0, "title": "t", "paragraph_text": "p", "is_supporting": True}],
                "question": "When was the founder born?",
                "question_decomposition": [{"id": 1, "question": "q", "answer": "a", "paragraph_support_idx": 0}],
                "answer": "1960",
                "answer_aliases": ["1960", "in 1960"],
                "answerable": True,
            },
            {"id": "2hop__1_2", "question": "When?", "answer": "1960", "answer_aliases": [], "answerable": False},
            {"id": "3hop__3", "question": "Who?", "answer": "Ann", "answer_aliases": [], "answerable": True},
        ],
        ["When was the founder born?", "Who?"],
        [["1960", "in 1960"], ["Ann"]],
        ["", ""],
        excluded=1,
    ),
    Case(
        "bamboogle",
        ".csv",
        [
            {"Question": 'Who ruled when "it" began, and why?', "Answer": "A Duke,\nof Ulm"},
            {"Question": "Year of the fire?", "Answer": "1376"},
        ],
        ['Who ruled when "it" began, and why?', "Year of the fire?"],
        [["A Duke,\nof Ulm"], ["1376"]],
        ["", ""],
    ),
    Case(
        "simpleqa",
        ".csv",
        [
            {"metadata": "{'topic': 'Art', 'answer_type': 'Person', 'urls': []}", "problem": "Who?", "answer": "Zoë"},
            {"metadata": "{'topic': 'Art'}", "problem": "On which day?", "answer": "7 May 1990"},
        ],
        ["Who?", "On which day?"],
        [["Zoë"], ["7 May 1990"]],
        ["", ""],
    ),
    Case(
        "webwalkerqa",
        ".jsonl",
        [
            {
                "question": "When is the deadline?",
                "answer": "May 1.",
                "root_url": "https://x.example/",
                "info": {"hop": "multi-source", "domain": "conference", "lang": "en", "difficulty_level": "medium"},
            },
            {"Question": "哪一天？", "Answer": "五月一日", "Root_Url": "u", "Info": {"Difficulty_Level": "Easy"}},
        ],
        ["When is the deadline?", "哪一天？"],
        [["May 1."], ["五月一日"]],
        ["medium", "Easy"],
    ),
    Case(
        "gaia",
        ".jsonl",
        [
            gaia_row("How many?", "3", 1),
            gaia_row("What is in the table?", "9", 2, "table.xlsx"),
            gaia_row("A question of the test split", "?", 3),
            gaia_row("List them.", "a, b", 3),
        ],
        ["How many?", "List them."],
        [["3"], ["a, b"]],
        ["1", "3"],
        excluded=2,
    ),
    Case(
        "hle",
        ".parquet",
        [
            hle_row("Which group?", "S_5", "Math"),
            hle_row("What is shown?", "A", "Biology", "data:image/png;base64,iVBORw0="),
            hle_row("Choose. A. x B. y", "B", "Humanities"),
        ],
        ["Which group?", "Choose. A. x B. y"],
        [["S_5"], ["B"]],
        ["Math", "Humanities"],
        excluded=1,
    ),
    Case(
        "xbench-deepsearch",
        ".csv",
        [
            {
                "id": "1",
                "prompt": encoded("乌尔姆有几座城门？", "xbench-1"),
                "answer": encoded("7", "xbench-1"),
                "reference_steps": encoded("搜索", "xbench-1"),
                "canary": "xbench-1",
            },
            {"id": "2", "prompt": "已解码的问题？", "answer": "2010", "reference_steps": "", "canary": "xbench-2"},
        ],
        ["乌尔姆有几座城门？", "已解码的问题？"],
        [["7"], ["2010"]],
        ["", ""],
    ),
    Case(
        "custom",
        ".jsonl",
        [{"question": "2+2?", "answer": 4, "data_source": "mine"}, {"question": "3+3?", "answer": [6, "six"]}],
        ["2+2?", "3+3?"],
        [["4"], ["6", "six"]],
        ["", ""],
        data_sources={"mine", "custom"},
        arguments=("--ability", "math"),
    ),
]


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    """Write rows in the format of the path's suffix."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, rows[0])
            writer.writeheader()
            writer.writerows(rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(path: Path) -> list[dict[str, Any]]:
    return pq.read_table(path).to_pylist()
