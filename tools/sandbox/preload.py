"""Imports and warms up, once, what most programs would spend their time importing."""

import gc
import importlib
import sys

_STANDARD = [
    *("ast", "base64", "bisect", "calendar", "cmath", "collections.abc", "concurrent.futures", "contextlib", "copy"),
    *("csv", "dataclasses", "datetime", "decimal", "enum", "fractions", "functools", "hashlib", "heapq", "inspect"),
    *("io", "itertools", "json", "locale", "math", "operator", "pprint", "random", "re", "statistics", "string"),
    *("struct", "tempfile", "textwrap", "threading", "time", "timeit", "traceback", "typing", "unicodedata", "uuid"),
]


def preload(folders: list[str]) -> list[str]:
    """Add the folders to `sys.path`, import what is there, and return the libraries found.

    A library that is missing or broken is left to the program, which will see its error.
    """
    sys.path += folders
    for name in _STANDARD:
        importlib.import_module(name)
    found = []
    for name, warm_up in (("numpy", _warm_up_numpy), ("sympy", _warm_up_sympy)):
        try:
            importlib.import_module(name)
            warm_up()
        except Exception:  # whatever a library raises when it is imported
            continue
        found.append(name)
    gc.collect()
    gc.freeze()  # or each child's first collection would copy every page
    return found


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
