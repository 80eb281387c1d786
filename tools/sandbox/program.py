"""Runs one program of the model in its isolated process, and ends the process.

Everything here can be patched by the program, which runs in the same interpreter. That gains it nothing: what it
printed and how the process ended is taken from the kernel by another process.
"""

import _ast
import atexit
import builtins
import errno
import os
import random
import sys
import threading
import traceback
import types

from .program_text import likely_programs

LIMIT_EXIT = 101
"""Exit code of a child after a limit; a program may end with the same code, and is then believed."""
IMPORT_EXIT = 102
"""Exit code of a child after the failing import of a library."""

_exit = os._exit  # a program that replaces it would come out in the helper's code


def run_program(source: bytes, memory_mb: int) -> None:
    """Run a program as `__main__`, show the value of its last expression, and end the process; never returns."""
    code = 1
    try:
        code = _exit_code_of(source.decode("utf-8", "replace"), f"MemoryError: the memory limit is {memory_mb} MB\n")
    except BaseException:
        code = 1  # the program has broken what would have shown its error
    finally:
        _exit(code)


def _exit_code_of(source: str, memory_message: str) -> int:
    memory_bytes = memory_message.encode()  # made before memory runs out
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    sys.argv = [""]
    builtins.exit = builtins.quit = sys.exit  # type: ignore[assignment]  # `site` would define them, which isn't imported
    names = module.__dict__
    try:
        _execute(source, names)
        return _finish(0)
    except SystemExit as leaving:
        return _finish(_code_of(leaving.code))
    except MemoryError:
        names.clear()  # or there would be no memory for the message
        _write(memory_bytes)
        return LIMIT_EXIT
    except BaseException as error:
        # Two frames are ours.
        inner = error.__traceback__.tb_next if error.__traceback__ else None
        lines = traceback.format_exception(type(error), error, inner.tb_next if inner else None)
        code = _finish(_exit_code_after(error))
        _write("".join(lines).encode("utf-8", "backslashreplace"))
        return code


def _exit_code_after(error: BaseException) -> int:
    if isinstance(error, OSError) and error.errno in (errno.EFBIG, errno.ENOSPC):
        return LIMIT_EXIT
    if isinstance(error, ImportError):
        is_there = error.name is not None and error.name.partition(".")[0] in sys.modules
        return 1 if is_there else IMPORT_EXIT
    codes = (frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__))
    return IMPORT_EXIT if any(code.co_name == "<module>" and code.co_filename != "<python>" for code in codes) else 1


def _execute(source: str, names: dict[str, object]) -> None:
    module = _parse(source)
    if isinstance(module, SyntaxError):
        raise module.with_traceback(None)
    body = module.body
    last = None
    if body and isinstance(final := body[-1], _ast.Expr):
        last = _ast.Expression(final.value)
        body.pop()
    exec(compile(_ast.Module(body, []), "<python>", "exec", dont_inherit=True), names)
    if last is not None:
        sys.displayhook(eval(compile(last, "<python>", "eval", dont_inherit=True), names))


def _parse(source: str) -> _ast.Module | SyntaxError:
    """Return the syntax tree of a program, or of what it is meant to be where it is none, or what is wrong with it."""
    try:
        return _syntax_tree(source)
    except SyntaxError as error:
        errors = [error]
    for program in likely_programs(source):
        try:
            return _syntax_tree(program)
        except SyntaxError as error:
            errors.append(error)
    return errors[:2][-1]


def _syntax_tree(source: str) -> _ast.Module:
    tree = compile(source, "<python>", "exec", _ast.PyCF_ONLY_AST, dont_inherit=True)
    return tree  # type: ignore[return-value]  # in mode "exec" the syntax tree is a module


def _code_of(status: object) -> int:
    """Return the exit code that Python gives to `sys.exit(status)`."""
    if status is None:
        return 0
    if isinstance(status, int):
        return status & 0xFF
    _write(f"{status}\n".encode("utf-8", "backslashreplace"))
    return 1


def _finish(code: int) -> int:
    """Do what Python does at its end: wait for threads, run `atexit`, flush."""
    try:
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:  # closed or replaced by something that isn't a stream
                continue
    return code


def _write(message: bytes) -> None:
    for descriptor in (2, 1):  # the program may have closed either
        try:
            while message:
                message = message[os.write(descriptor, message) :]
            return
        except OSError:
            continue


def renew_random_state() -> None:
    """Reseed every generator that the helper's children would otherwise share; `random` does so by itself."""
    random.seed()
    if (numpy_random := sys.modules.get("numpy.random")) is not None:
        numpy_random.seed()
    if (sympy_random := sys.modules.get("sympy.core.random")) is not None:
        sympy_random.seed()
