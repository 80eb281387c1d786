"""The watch over what a step waits for, without actors: it interrupts the main thread when nothing happens."""

import signal
import threading
import time

import pytest

from arpo_verl.integration.training.process_watch import INTERRUPT, ProcessWatch
from arpo_verl.integration.training.tool_guard import RunStopped

STALL_SECONDS = 0.3


def watch(progress) -> ProcessWatch:
    return ProcessWatch({}, progress, STALL_SECONDS, look_seconds=0.02)


def wait_for(condition, seconds: float = 10) -> None:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.01)


def join_a_sleeping_thread() -> None:
    thread = threading.Thread(target=time.sleep, args=(10,), daemon=True)
    thread.start()
    thread.join()


WAITS = {
    "sleep": lambda: time.sleep(10),
    "a lock": lambda: threading.Event().wait(10),
    "a join": join_a_sleeping_thread,
    "a loop": lambda: wait_for(lambda: False),
}


@pytest.mark.parametrize("wait", WAITS.values(), ids=WAITS.keys())
def test_a_wait_without_progress_is_interrupted_wherever_it_waits(wait):
    start = time.monotonic()
    with (
        pytest.raises(
            RunStopped, match=r"nothing has happened for 0 s \(2 leaves have come\); expected a leaf to come"
        ),
        watch(lambda: "2 leaves have come").watching(),
    ):
        wait()
    assert time.monotonic() - start < 5


def test_a_progress_that_cannot_be_told_does_not_end_the_watch():
    calls = []

    def progress() -> int:
        calls.append(len(calls))
        if len(calls) <= 3:
            raise AttributeError("a sampler of somebody else's has no such counts")
        return 1

    with pytest.raises(RunStopped), watch(progress).watching():
        time.sleep(10)
    assert len(calls) > 3


def test_progress_is_left_alone():
    with watch(time.monotonic).watching():
        time.sleep(3 * STALL_SECONDS)


def test_a_request_interrupts_a_run_that_makes_progress():
    answers = iter([None, None, RunStopped("asked")])
    asked = ProcessWatch({}, time.monotonic, 100, lambda: next(answers, None), look_seconds=0.02)
    with pytest.raises(RunStopped, match="asked"), asked.watching():
        time.sleep(10)


def test_a_wait_is_interrupted_though_whoever_asks_ray_hangs():
    is_over = threading.Event()
    hanging = ProcessWatch({}, lambda: 1, STALL_SECONDS, lambda: is_over.wait(3) or None, look_seconds=0.02)
    with pytest.raises(RunStopped, match="nothing has happened"), hanging.watching():
        time.sleep(10)
    is_over.set()


def test_an_interruption_that_is_swallowed_comes_again():
    interruptions = 0
    with pytest.raises(RunStopped), watch(lambda: 1).watching():
        while True:
            try:
                time.sleep(10)
            except RunStopped:
                interruptions += 1
                if interruptions == 3:
                    raise
    assert interruptions == 3


def test_nothing_is_left_of_a_watch_that_is_over():
    before = signal.getsignal(INTERRUPT)
    with watch(lambda: None).watching():
        assert signal.getsignal(INTERRUPT) != before
    assert signal.getsignal(INTERRUPT) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "process watch"]
