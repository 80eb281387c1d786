"""Answers checked in a second: as text, plain numbers, and mathematics in the worker processes, hostile answers or not.

python tests/benchmarks/answer_checking.py
"""

import contextlib
import os
import resource
import statistics
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from arpo_verl.reward import compute_score
from arpo_verl.reward.math_check import MathChecker, MathCheckResult

CHECKS = 1000
STUCK_EVERY = 100
STUCK_SECONDS = 0.5


def answer(number: int) -> tuple[str, str, bool]:
    """Return a prediction, a truth and whether they are equal; no two calls give the same pair."""
    n = number + 2
    kinds = [
        (rf"\sqrt{{{n * n * 3}}}", rf"{n}\sqrt{{3}}", True),
        (rf"\frac{{{n}}}{{{n + 1}}}", rf"\frac{{{2 * n}}}{{{2 * n + 2}}}", True),
        (rf"(x+{n})^2", rf"x^2+{2 * n}x+{n * n}", True),
        (rf"\{{{n}, {n + 1}\}}", rf"\{{{n + 1}, {n}\}}", True),
        (rf"\frac{{{n}}}{{7}}", rf"\frac{{{n + 1}}}{{7}}", False),
        (rf"{n}\pi", rf"\pi^{{{n}}}", False),
    ]
    return kinds[number % len(kinds)]


def report(name: str, seconds: list[float], wall_seconds: float) -> None:
    milliseconds = sorted(1e3 * value for value in seconds)
    p50, p99 = statistics.median(milliseconds), milliseconds[int(0.99 * len(milliseconds))]
    print(f"{name:58} {len(seconds) / wall_seconds:9.0f}/s   p50 {p50:8.3f} ms   p99 {p99:8.2f} ms", flush=True)


def run(name: str, check: Callable[[int], None], threads: int = 1, checks: int = CHECKS) -> None:
    def timed(number: int) -> float:
        start = time.perf_counter()
        check(number)
        return time.perf_counter() - start

    start = time.perf_counter()
    with ThreadPoolExecutor(threads) as pool:
        seconds = list(pool.map(timed, range(checks)))
    report(name, seconds, time.perf_counter() - start)


def score(data_source: str, prediction: str, truth: str) -> None:
    compute_score(data_source, rf"<answer>\boxed{{{prediction}}}</answer>", truth)


def mathematics(workers: int, threads: int, is_hostile: bool = False) -> None:
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    with contextlib.closing(MathChecker(workers)) as checker:

        def check(number: int) -> None:
            if is_hostile and number % STUCK_EVERY == 0:
                assert checker.check("9^{9^{9}}", ["5"], STUCK_SECONDS) is MathCheckResult.TIMEOUT
                return
            prediction, truth, is_equal = answer(number)
            assert checker.check(prediction, [truth]) is (
                MathCheckResult.EQUAL if is_equal else MathCheckResult.DIFFERENT
            )

        start = time.perf_counter()
        check(1)
        first = time.perf_counter() - start
        name = f"mathematics, {workers} workers, {threads} threads"
        run(name + f", 1 in {STUCK_EVERY} stuck for {STUCK_SECONDS} s" * is_hostile, check, threads)
        descriptors = len(os.listdir("/proc/self/fd"))
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(f"    first check after {first:.2f} s, {descriptors} descriptors, {1e3 * cpu / CHECKS:.1f} ms of CPU a check")


def main() -> None:
    run("text F1, whole reward", lambda number: score("any", f"the answer {number}", "an answer"))
    run("plain numbers, whole reward", lambda number: score("math500", str(number), "500"))
    mathematics(1, 1)
    mathematics(2, 16)
    mathematics(4, 16)
    mathematics(4, 16, is_hostile=True)
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    print(f"largest process: {peak} MB")


if __name__ == "__main__":
    main()
