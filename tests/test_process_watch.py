"""The watch over what a step waits for, without actors: it interrupts the main thread when nothing happens."""

import signal
import threading
import time

import pytest

from arpo_verl.integration.process_watch import INTERRUPT, ProcessWatch
from arpo_verl.integration.tool_guard import RunStopped

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
        pytest.raises(RunStopped, match=r"no leaf has come for 0 s while the trainer waited.*\(1, 2\)"),
        watch(lambda: (1, 2)).watching(),
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


def test_progress_and_a_trainer_that_does_not_wait_are_left_alone():
    with watch(time.monotonic).watching():
        time.sleep(3 * STALL_SECONDS)
    with watch(lambda: None).watching():
        time.sleep(3 * STALL_SECONDS)


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
