"""Lets Ctrl-C or SIGTERM end a run after its last finished step is saved.

The signal reaches the driver, which only waits; the trainer lives in an actor of Ray's (verl 0.9.1,
`trainer/main_ppo.py`, `TaskRunnerV1`), perhaps on another machine, and dies with the driver. So the driver, instead of
ending, leaves a request in Ray's key-value store, where the trainer's watch looks; the trainer saves and ends, and so
does the driver. A second signal acts as if there were none of this.
"""

import logging
import os
import signal
import sys
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

import ray
from ray.experimental import internal_kv

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
NAMESPACE = b"arpo_verl"


def save_when_stopped() -> None:
    """Have this driver's run end saved at SIGINT or SIGTERM; call it in the main thread, before Ray starts or after.

    Ray sets a handler of SIGTERM when it starts, so ours comes afterwards, by Ray's own list of what to do then (Ray
    2.60, `_private/worker.py`).
    """
    hooks = ray._private.worker._post_init_hooks
    if ray.is_initialized():
        _listen()
    elif _listen not in hooks:
        hooks.append(_listen)


def _listen() -> None:
    StopRequest(ask_trainer).listen()


class StopRequest:
    """Turns the first signal into a request; the next one acts as it would have."""

    def __init__(self, ask: Callable[[str], bool]) -> None:
        """
        Args:
            ask: passes the signal's name on; returns False where nobody will do anything about it.
        """
        self._ask = ask
        self._stock_handlers: dict[int, Any] = {}
        self._number = 0
        self._has_come = threading.Event()

    def listen(self) -> None:
        """Wait for a signal in the background. Does nothing outside the main thread, which alone has handlers."""
        if threading.current_thread() is not threading.main_thread():
            return
        threading.Thread(target=self._pass_on, name="stop request", daemon=True).start()
        # What is ignored, as SIGINT is in the background of a script, stays so.
        heard = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        self._stock_handlers = {number: signal.signal(number, self._take) for number in heard}

    def _take(self, number: int, frame: FrameType | None) -> None:
        for each, handler in self._stock_handlers.items():
            signal.signal(each, handler)
        self._number = number
        self._has_come.set()

    def _pass_on(self) -> None:
        """Ask in a thread of its own: a handler runs in the middle of whatever the main thread does."""
        self._has_come.wait()
        name = signal.Signals(self._number).name
        try:
            is_asked = self._ask(name)
        except Exception:
            logger.exception("the trainer could not be asked to save and end")
            is_asked = False
        if is_asked:
            print(
                f"{name}: the run ends as soon as the last finished step is saved; a second signal ends it at once",
                file=sys.stderr,
                flush=True,
            )
        else:
            os.kill(os.getpid(), self._number)


def ask_trainer(name: str) -> bool:
    """Ask the trainer of this job to save and end; return whether there is one yet."""
    if not internal_kv._internal_kv_exists(_key("trains"), namespace=NAMESPACE):
        return False
    internal_kv._internal_kv_put(_key("stop"), name.encode(), overwrite=True, namespace=NAMESPACE)
    return True


def accept_requests() -> None:
    """The trainer of this job looks for requests from now on."""
    internal_kv._internal_kv_put(_key("trains"), b"1", overwrite=True, namespace=NAMESPACE)


def requested() -> str | None:
    """Return the name of the signal by which this job was asked to end, or None."""
    name: bytes | None = internal_kv._internal_kv_get(_key("stop"), namespace=NAMESPACE)
    return name.decode() if name else None


def _key(name: str) -> bytes:
    return f"{ray.get_runtime_context().get_job_id()}/{name}".encode()
