"""How fast the Python tool is beside `python -c` for every call, and whether it stays the same over many calls.

    python tests/benchmarks/python_calls.py                       # the table, about a minute
    python tests/benchmarks/python_calls.py --endurance 10000     # then 10 000 mixed calls, 1 % hang, 1 % crash

Latencies are of one call at a time, throughputs of two calls for each processor at a time, all in the same run.
"""

import argparse
import asyncio
import os
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

from arpo_tools import PythonInterpreter, ToolStatus

SYMPY = """
from sympy import symbols, factor, solve
x = symbols('x')
print(factor(x**4 - 5*x**2 + 4), solve(x**2 - 3*x + 2, x))
"""
PROGRAMS = {"pass": "pass", "sympy": SYMPY}
PROCESSORS = len(os.sched_getaffinity(0))


async def python_c(code: str) -> None:
    """The reference: a process for every call."""
    command = [sys.executable, "-c", code]
    await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


async def measure(call: Callable[[str], Awaitable[object]], code: str, seconds: float) -> tuple[float, float, float]:
    """Return calls a second, and p50 and p95 of the latency in ms."""
    latencies = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(latencies) < 5:
        start = time.perf_counter()
        await call(code)
        latencies.append(1000 * (time.perf_counter() - start))
    count = 0
    start = time.perf_counter()

    async def caller() -> None:
        nonlocal count
        while time.perf_counter() < start + seconds or count < 5:
            await call(code)
            count += 1

    await asyncio.gather(*(caller() for _ in range(2 * PROCESSORS)))
    return count / (time.perf_counter() - start), statistics.median(latencies), percentile(latencies, 0.95)


async def table(seconds: float) -> None:
    python = PythonInterpreter(timeout_seconds=60)
    start = time.perf_counter()
    report = await python.start()
    print(f"{report.level}, {PROCESSORS} processors, helper started in {time.perf_counter() - start:.2f} s\n")
    print(f"{'program':8} {'runner':12} {'calls/s':>8} {'p50 ms':>8} {'p95 ms':>8}")
    for name, code in PROGRAMS.items():
        rows = {
            "python -c": await measure(python_c, code, seconds),
            "interpreter": await measure(python.run, code, seconds),
        }
        for runner, (rate, p50, p95) in rows.items():
            print(f"{name:8} {runner:12} {rate:8.1f} {p50:8.1f} {p95:8.1f}")
        (slow, slow_p50, _), (fast, fast_p50, _) = rows.values()
        print(f"{name:8} {'ratio':12} {fast / slow:8.1f} {slow_p50 / fast_p50:8.1f}")
    python.close()


MIX = {
    "print": ("print(1)", 50, {ToolStatus.OK}),
    "sympy": (SYMPY, 20, {ToolStatus.OK}),
    "numpy": ("import numpy\nfloat(numpy.random.rand(50, 50).sum()) > 0", 10, {ToolStatus.OK}),
    "error": ("1 / 0", 10, {ToolStatus.MODEL_ERROR}),
    "output": ("print('x' * 100_000)", 4, {ToolStatus.LIMIT}),
    "memory": ("bytearray(1 << 40)", 2, {ToolStatus.LIMIT}),
    "threads": ("import threading\nthreading.Thread(target=print, args=(1,)).start()", 2, {ToolStatus.OK}),
    "hang": ("import time\ntime.sleep(3600)", 1, {ToolStatus.TIMEOUT}),
    "crash": ("import ctypes\nctypes.string_at(0)", 1, {ToolStatus.MODEL_ERROR}),
}


def footprint(pids: dict[str, int]) -> str:
    """Return the resident memory in MB and the open files of processes."""
    page = os.sysconf("SC_PAGE_SIZE")
    parts = []
    for name, pid in pids.items():
        memory = int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * page / 2**20
        parts.append(f"{name} {memory:6.1f} MB {len(os.listdir(f'/proc/{pid}/fd')):3d} files")
    return "  ".join(parts)


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def helper_of(pid: int) -> int:
    """Return the helper, which bubblewrap may have started."""
    (child,) = children(pid)
    while Path(f"/proc/{child}/comm").read_text().strip() != "arpo-python":
        child = children(child)[0]
    return child


async def endurance(calls: int) -> None:
    python = PythonInterpreter(timeout_seconds=2)
    await python.start()
    pids = {"owner": os.getpid(), "helper": helper_of(os.getpid())}
    generator = random.Random(0)
    names = generator.choices(list(MIX), [share for _, share, _ in MIX.values()], k=calls)
    wrong: Counter[str] = Counter()
    done = 0
    start = time.perf_counter()
    waiting = iter(names)

    async def caller() -> None:
        nonlocal done
        for name in waiting:
            code, _, expected = MIX[name]
            result = await python.run(code)
            wrong[f"{name}: {result.status.value}"] += result.status not in expected
            done += 1
            if done % max(1, calls // 10) == 0:
                print(f"{done:6d} calls, {done / (time.perf_counter() - start):6.1f} a second  {footprint(pids)}")

    await asyncio.gather(*(caller() for _ in range(8 * PROCESSORS)))
    left = children(pids["helper"])
    print(f"calls: {dict(Counter(names))}; unexpected results: {dict(+wrong)}")
    print(f"processes left beside the spare one: {len(left) - 1}")
    python.close()
    print(f"after closing: {len(children(os.getpid()))} processes, {len(os.listdir('/proc/self/fd'))} files open")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=5.0, help="of each measurement")
    parser.add_argument("--endurance", type=int, default=0, metavar="CALLS")
    options = parser.parse_args()
    asyncio.run(table(options.seconds))
    if options.endurance:
        asyncio.run(endurance(options.endurance))
