"""The check of a local search corpus: that it can be read, has an index, and that one of its documents is found."""

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from arpo_tools import Tool, open_search
from arpo_tools.search.corpus import Document, read_corpus, require_corpus
from arpo_tools.search.open_index import has_index
from arpo_tools.search.words import words_of_query
from arpo_verl.doctor.finding import Finding, Status

QUICK_MB = 4
"""A larger corpus is not indexed here: bm25s takes about half a second a MB."""
SAMPLE = 1000
"""Documents of a corpus that are read in any case."""

Ask = Callable[[str, Tool, str, str], Finding]


def check_corpus(label: str, options: dict[str, Any], ask: Ask) -> list[Finding]:
    """Return the findings about the corpus and about the search in it.

    Raises:
        ValueError: the corpus, its index or an option of the tool can't work.
    """
    if not options.get("corpus"):
        raise ValueError("the search back-end local has no `corpus`; expected the path of a JSONL file: add it")
    corpus = require_corpus(Path(str(options["corpus"])))
    sample = list(itertools.islice(read_corpus(corpus), SAMPLE))
    size_mb = corpus.stat().st_size / (1 << 20)
    if size_mb > QUICK_MB and not has_index(corpus, options.get("engine", "auto")):
        text = (
            f"{corpus}: {size_mb:.0f} MB, the first {len(sample)} documents can be read; expected an index, which the "
            f"run will build before it starts: to have it now, "
            f"python -c \"from arpo_tools import LocalSearch; LocalSearch('{corpus}')\""
        )
        return [
            Finding("corpus", Status.WARNING, text),
            Finding(label, Status.SKIPPED, "not asked, because the corpus has no index yet"),
        ]
    tool = open_search(**options)
    found = Finding("corpus", Status.OK, f"{corpus}: {size_mb:.1f} MB, indexed")
    return [found, ask(label, tool, _query_for(sample), str(corpus))]


def _query_for(sample: list[Document]) -> str:
    """Return a query that finds one of the documents."""
    texts = (document.title or document.contents[:100] for document in sample)
    return next((text for text in texts if words_of_query(text, 1)), "")
