"""Imports and warms up, once, what most programs would spend their time importing."""

import contextlib
import gc
import importlib
import os
import sys
import tempfile
from collections.abc import Iterator

_STANDARD = [
    *("ast", "base64", "bisect", "calendar", "cmath", "collections.abc", "concurrent.futures", "contextlib", "copy"),
    *("csv", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "inspect"),
    *("io", "itertools", "json", "locale", "math", "operator", "pprint", "random", "re", "statistics", "string"),
    *("struct", "tempfile", "textwrap", "threading", "time", "timeit", "traceback", "typing", "unicodedata", "uuid"),
]


def preload(folders: list[str], libraries: list[str]) -> list[str]:
    """Add the folders to `sys.path`, import the libraries, and return those that are imported.

    A library that is missing or broken is left to the program, which will see its error; so is one that starts threads,
    which would be missing, with their locks held, in every fork.
    """
    sys.path += folders
    for name in _STANDARD:
        importlib.import_module(name)
    found = []
    with _no_home():
        for name in libraries:
            if name not in _WARM_UPS and not _can_be_forked(name):
                continue
            try:
                importlib.import_module(name)
                _WARM_UPS.get(name, lambda: None)()
            except Exception:  # whatever a library raises when it is imported
                continue
            found.append(name)
    gc.collect()
    gc.freeze()  # or each child's first collection would copy every page
    return found


def _can_be_forked(name: str) -> bool:
    """Import a library in a process of its own; return whether that works and leaves one thread."""
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            importlib.import_module(name)
            os._exit(len(os.listdir("/proc/self/task")) != 1)
        os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


@contextlib.contextmanager
def _no_home() -> Iterator[None]:
    """Let libraries that write settings and caches when they are imported write where nothing stays."""
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= dict.fromkeys(("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "MPLCONFIGDIR"), folder)
        os.environ["MPLBACKEND"] = "Agg"  # there is no display
        try:
            yield
        finally:
            os.environ.clear()
            os.environ.update(before)


def _warm_up_numpy() -> None:
    import numpy

    numpy.random.default_rng().normal(size=4)
    matrix = numpy.array([[2.0, 1.0], [1.0, 3.0]])
    str(numpy.linalg.solve(matrix, numpy.linalg.eigvals(matrix)))


def _warm_up_sympy() -> None:
    """Touch what SymPy imports when it is first used."""
    import sympy

    x, y = sympy.symbols("x y")
    sympy.factor(x**3 - 1)
    sympy.solve(x**2 - 3 * x + 2, x)
    sympy.solve([x + y - 3, x - y - 1], [x, y])
    sympy.simplify(sympy.sin(x) ** 2 + sympy.cos(x) ** 2)
    sympy.integrate(x**2 * sympy.exp(x), x)
    sympy.diff(sympy.sin(x) / x, x)
    sympy.limit(sympy.sin(x) / x, x, 0)
    sympy.N(sympy.pi, 30)
    sympy.Matrix([[1, 2], [3, 4]]).inv()
    str(sympy.sqrt(8) + sympy.Rational(1, 3)), sympy.latex(x / y)
    sympy.sympify("x**2 + 1"), sympy.factorint(360), sympy.isprime(97)


_WARM_UPS = {"numpy": _warm_up_numpy, "sympy": _warm_up_sympy}
