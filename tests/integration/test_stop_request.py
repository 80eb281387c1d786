"""What a driver does at SIGINT and SIGTERM: the first asks the trainer to save and end, the second ends at once."""

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from multiprocessing.connection import Connection

import pytest
import verl.utils.config as verl_config
from hydra import compose, initialize_config_module

from arpo_verl.integration.training.stop_request import StopRequest

GRACE_SECONDS = 0.3
"""After which a driver that still runs is taken to go on."""


def drive(answer: bool | None, pipe: Connection) -> None:
    """Wait as a driver does; `answer` None is an error."""
    os.dup2(pipe.fileno(), 2)
    sys.stderr = os.fdopen(2, "w")
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)

    def ask(name: str) -> bool:
        os.write(2, f"asked {name}\n".encode())
        if answer is None:
            raise ConnectionError("Ray is gone")
        return answer

    StopRequest(ask).listen()
    os.write(2, b"waits\n")
    while True:
        time.sleep(0.01)


def run(answer: bool | None, *signals: int) -> tuple[int | None, str]:
    """Start a driver, send it signals, and return how it ended, None if it did not, and what it said."""
    context = multiprocessing.get_context("fork")
    ours, its = context.Pipe()
    child = context.Process(target=drive, args=(answer, its))
    child.start()
    its.close()
    said = os.read(ours.fileno(), 1000)
    for number in signals:
        assert child.pid is not None
        os.kill(child.pid, number)
        time.sleep(GRACE_SECONDS)
    child.join(GRACE_SECONDS)
    code = child.exitcode
    child.kill()
    child.join()
    while more := os.read(ours.fileno(), 10_000):
        said += more
    return code, said.decode()


@pytest.mark.parametrize(("number", "name"), [(2, "SIGINT"), (15, "SIGTERM")])
def test_the_first_signal_asks_and_the_driver_goes_on_waiting(number, name):
    code, said = run(True, number)
    assert code is None
    assert f"asked {name}" in said and "a second signal ends it at once" in said


@pytest.mark.parametrize("signals", [(2, 2), (15, 15), (2, 15), (15, 2)])
def test_the_second_signal_ends_it_as_ever(signals):
    code, said = run(True, *signals)
    assert code == -signals[1]
    assert said.count("asked") == 1


@pytest.mark.parametrize("answer", [False, None])
@pytest.mark.parametrize("number", [2, 15])
def test_a_signal_that_nobody_can_act_on_ends_the_driver_as_ever(answer, number):
    code, said = run(answer, number)
    assert code == -number
    assert "asked" in said


@pytest.mark.parametrize(
    ("overrides", "is_ours"),
    [
        ([], True),
        (["algorithm.adv_estimator=grpo"], True),  # the preset's rollout is tag_agent
        (["algorithm.adv_estimator=grpo", "actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent"], False),
        (["algorithm.adv_estimator=gae", "actor_rollout_ref.rollout.agent.default_agent_loop=tool_agent"], False),
    ],
)
def test_the_drivers_of_our_runs_listen_once_they_are_checked_and_no_others(monkeypatch, overrides, is_ours):
    calls = []
    for check in ("check", "check_tags_of_run", "check_datasets", "check_resume"):
        monkeypatch.setattr(f"arpo_verl.preflight.checks.{check}", lambda config: calls.append("check"))
    monkeypatch.setattr("arpo_verl.integration.training.stop_request.save_when_stopped", lambda: calls.append("listen"))
    monkeypatch.setattr(verl_config.validate_config, "__wrapped__", lambda config, *rest: None)
    with initialize_config_module("arpo_verl.config", version_base=None):
        config = compose("arpo_trainer", overrides=overrides)
    verl_config.validate_config(config, False, False)
    assert calls[-1:] == (["listen"] if is_ours else [])


@pytest.mark.slow
@pytest.mark.engine
def test_a_request_of_a_driver_reaches_a_trainer_of_its_job_once_that_trains():
    """verl's driver starts Ray after its checks, and Ray takes SIGTERM for itself when it starts: ours comes after."""
    code = """
import os, signal, time, ray
from arpo_verl.integration.training import stop_request

# Where these tests run in the background of a script, it is ignored.
signal.signal(signal.SIGINT, signal.default_int_handler)
before = signal.getsignal(signal.SIGTERM)
stop_request.save_when_stopped()
stop_request.save_when_stopped()
assert signal.getsignal(signal.SIGTERM) == before
ray.init(num_cpus=1, include_dashboard=False, address="local")
listener = signal.getsignal(signal.SIGTERM).__self__
assert "ray" in listener._stock_handlers[signal.SIGTERM].__module__
assert listener._stock_handlers[signal.SIGINT] is signal.default_int_handler

@ray.remote
class Trainer:
    def train(self):
        stop_request.accept_requests()
    def requested(self):
        return stop_request.requested()

trainer = Trainer.remote()
assert ray.get(trainer.requested.remote()) is None
assert not stop_request.ask_trainer("SIGINT")
ray.get(trainer.train.remote())
os.kill(os.getpid(), signal.SIGTERM)
end = time.monotonic() + 20
while ray.get(trainer.requested.remote()) != "SIGTERM" and time.monotonic() < end:
    time.sleep(0.1)
print(ray.get(trainer.requested.remote()))
"""
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert shown.stdout.splitlines()[-1:] == ["SIGTERM"], shown.stderr
