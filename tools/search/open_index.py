"""An index over a corpus, kept beside it: built once, shared by all processes, rebuilt when the corpus changes.

Two engines rank by BM25 and read the same words: `bm25s` (extra `search`: scores computed when the index is built, in
memory-mapped arrays) and SQLite's `fts5` (no dependency). Passages are in an SQLite file in both.
"""

import contextlib
import glob
import hashlib
import importlib.util
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from pathlib import Path

from arpo_tools.search.corpus import CorpusError, require_corpus
from arpo_tools.search.index import Index

ENGINES = ("auto", "bm25s", "fts5")
_FORMAT = 3
"""Part of the index's name: raise it when words, ranking or files change, and old indexes are rebuilt."""


def open_index(corpus: str | Path, engine: str = "auto") -> Index:
    """Open the corpus's index, building it first if need be.

    Raises:
        CorpusError: see `read_corpus`; or no place for the index is writable.
        ValueError: the engine is not one of `ENGINES`, or `bm25s` is asked for and not installed.
    """
    path = require_corpus(Path(corpus))
    if _available_engine(engine) == "bm25s":
        from arpo_tools.search import bm25s_index

        return bm25s_index.Bm25sIndex(_ready_index(path, "bm25s", bm25s_index.build))
    from arpo_tools.search import fts5_index

    return fts5_index.Fts5Index(_ready_index(path, "fts5", fts5_index.build))


def has_index(corpus: str | Path, engine: str = "auto") -> bool:
    """Whether `open_index` would find an index that is up to date, and build none.

    Raises:
        CorpusError, ValueError: see `open_index`.
    """
    path = require_corpus(Path(corpus))
    return any(index.exists() for index in _index_paths(path, _available_engine(engine)))


def _available_engine(engine: str) -> str:
    if engine not in ENGINES:
        raise ValueError(f"search engine {engine!r}: expected one of {', '.join(ENGINES)}")
    is_installed = is_bm25s_installed()
    if engine == "bm25s" and not is_installed:
        raise ValueError("search engine 'bm25s' is not installed: pip install 'arpo-verl[search]', or set engine: fts5")
    return "bm25s" if engine != "fts5" and is_installed else "fts5"


def is_bm25s_installed() -> bool:
    return importlib.util.find_spec("bm25s") is not None


def _index_paths(corpus: Path, engine: str) -> tuple[Path, Path]:
    """Return where an index of the corpus as it is now may lie: beside it, and in the temporary directory."""
    state = corpus.stat()
    version = hashlib.sha256(f"{_FORMAT}:{corpus}:{state.st_size}:{state.st_mtime_ns}".encode()).hexdigest()[:16]
    beside = corpus.parent / f".{corpus.name}.{version}.{engine}"
    # Anybody may put files into the temporary directory, so there only one's own are believed.
    return beside, Path(tempfile.gettempdir()) / f".{corpus.name}.{version}.{os.getuid()}.{engine}"


def _ready_index(corpus: Path, engine: str, build: Callable[[Path, Path], None]) -> Path:
    """Return the path of an index that is up to date with the corpus."""
    beside, apart = _index_paths(corpus, engine)
    for index in (beside, apart):
        if index.exists() and (index == apart or os.access(index, os.R_OK)):
            if index == apart and index.stat().st_uid != os.getuid():
                raise CorpusError(
                    f"{str(index)!r} belongs to another user: remove it or set TMPDIR to a folder of yours"
                )
            _share_as(corpus, index, is_private=index == apart)
            return index
        if os.access(index.parent, os.W_OK):
            _build(corpus, index, build, is_private=index == apart)
            return index
    raise CorpusError(f"no place for the index of {str(corpus)!r}: make its folder or the temporary directory writable")


def _build(corpus: Path, index: Path, build: Callable[[Path, Path], None], is_private: bool) -> None:
    """Build in a folder beside the target and rename, so that other processes see the whole index or none."""
    build_folder = Path(tempfile.mkdtemp(dir=index.parent, prefix=f"{index.name}."))
    try:
        unfinished = build_folder / "index"
        build(corpus, unfinished)
        _share_as(corpus, unfinished, is_private)
        try:
            os.replace(unfinished, index)
        except OSError:
            if not index.is_dir():  # another process was faster: a folder can't replace one that has files
                raise
        for outdated in index.parent.glob(f".{glob.escape(corpus.name)}.*{index.suffix}"):
            if outdated != index:
                _remove(outdated)
    finally:
        shutil.rmtree(build_folder, ignore_errors=True)


def _share_as(corpus: Path, index: Path, is_private: bool) -> None:
    """Let those read the index who may read the corpus, whose texts it holds, and nobody else.

    Args:
        is_private: the index lies in the temporary directory, where only its owner looks for it.
    """
    state = corpus.stat()
    owner = state.st_uid if os.geteuid() == 0 and not is_private else -1
    # A folder first, so that nobody gets in meanwhile.
    for path in (index, *index.glob("*")) if index.is_dir() else (index,):
        found = path.stat()
        if not is_private and (found.st_gid != state.st_gid or owner not in (-1, found.st_uid)):
            with contextlib.suppress(OSError):
                os.chown(path, owner, state.st_gid)
        mode = 0o600 if is_private else 0o600 | (state.st_mode & _shared_read_rights(path, state))
        mode |= (mode & 0o444) >> 2 if path.is_dir() else 0
        if stat.S_IMODE(path.stat().st_mode) != mode:
            with contextlib.suppress(OSError):  # another user's index, or a file system that can't be written
                path.chmod(mode)


def _shared_read_rights(path: Path, corpus: os.stat_result) -> int:
    """Return the rights to read that a file of the index may share with the corpus: not those of another group."""
    return 0o444 if path.stat().st_gid == corpus.st_gid else 0o404


def _remove(index: Path) -> None:
    if index.is_dir():
        shutil.rmtree(index, ignore_errors=True)
    else:
        index.unlink(missing_ok=True)
