"""The time limit of a save: it interrupts the main thread wherever that waits, and leaves nothing behind."""

import signal
import threading
import time

import pytest

from arpo_verl.integration.training import deadline as module
from arpo_verl.integration.training.deadline import deadline


@pytest.mark.parametrize("wait", [lambda: time.sleep(10), threading.Event().wait, lambda: threading.Lock().acquire()])
def test_a_block_that_waits_for_too_long_is_interrupted(wait):
    lock = threading.Lock()
    lock.acquire()
    start = time.monotonic()
    with pytest.raises(TimeoutError, match=r"the save has not ended within 0\.05 s"), deadline(0.05, "the save"):
        wait()
        lock.acquire()
    assert time.monotonic() - start < 5


def test_an_interruption_that_is_swallowed_comes_again(monkeypatch):
    monkeypatch.setattr(module, "AGAIN_SECONDS", 0.05)
    interruptions = 0
    with pytest.raises(TimeoutError), deadline(0.05, "the save"):
        while interruptions < 3:
            try:
                time.sleep(10)
            except TimeoutError:
                interruptions += 1
        time.sleep(10)


def test_a_block_in_time_and_its_own_errors_are_left_alone():
    before = signal.getsignal(signal.SIGALRM)
    with deadline(10, "the save"):
        assert signal.getsignal(signal.SIGALRM) != before
    with pytest.raises(KeyError), deadline(10, "the save"):
        raise KeyError
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0, 0)
