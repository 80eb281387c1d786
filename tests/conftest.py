"""What several test files share and takes long to make, and what runs beside what.

The marks: `slow` tests take long; those of them that are marked `engine` start Ray or vLLM; those that are marked
`nightly` are left out unless they are asked for, as `tests/nightly.sh` does.
"""

import fcntl
import functools
import os
import subprocess
import sys
import tempfile
from collections.abc import Generator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from xdist.scheduler import LoadFileScheduling

# How fast examples are drawn says something of the machine's load alone.
settings.register_profile("busy machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy machine")


@functools.cache
def starts_an_engine(file: Path) -> bool:
    return "mark.engine" in file.read_text()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the files that start Ray or vLLM come first: one worker is busy with them almost until the end."""
    items.sort(key=lambda item: not starts_an_engine(item.path))


class EnginesTogether(LoadFileScheduling):
    """A file to a worker of pytest-xdist, and to one of them all files that start Ray or vLLM.

    Two of these at a time would wait for each other.
    """

    def _split_scope(self, nodeid: str) -> str:
        file = super()._split_scope(nodeid)
        return "engine" if starts_an_engine(self.config.rootpath / file) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> EnginesTogether:
    return EnginesTogether(config, log)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Generator[None, Any, Any]:
    """Let one test at a time start Ray or vLLM, also of two commands: a run that starts would join another Ray."""
    if item.get_closest_marker("engine") is None:
        return (yield)
    with open(Path(tempfile.gettempdir(), f"arpo-verl-engine-{os.getuid()}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return (yield)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Let pytest-xdist send what tests have printed, which may hold lone surrogates."""
    return encodable((yield))


def encodable(value: Any) -> Any:
    """Return JSON's kinds of values with every text escaped that UTF-8 can't encode."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode("utf-8")
    if isinstance(value, dict):
        return {encodable(key): encodable(one) for key, one in value.items()}
    return type(value)(map(encodable, value)) if isinstance(value, list | tuple) else value


ENVIRONMENT = os.environ


@pytest.fixture(autouse=True)
def one_environment() -> Generator[None, None, None]:
    """Let `os.environ` stay the object that libraries have imported.

    datasets puts a copy in its place (5.2, `arrow_dataset.py`, `Dataset.map` in several processes).
    """
    yield
    if os.environ is not ENVIRONMENT:
        os.environ = ENVIRONMENT  # noqa: B003


@pytest.fixture(scope="session")
def world(tmp_path_factory) -> Path:
    """A tiny world whose model has learned enough to call tools."""
    folder = tmp_path_factory.mktemp("world")
    command = [sys.executable, "-m", "arpo_verl.tiny_world", "--out", str(folder), "--cold-start-steps", "400"]
    # One thread: two that wait for each other take several times as long where the cores are shared.
    command += ["--threads", "1"]
    subprocess.run(command, check=True)
    return folder


@pytest.fixture(scope="module")
def transfer_queue() -> Generator[ModuleType, None, None]:
    """TransferQueue on a Ray of its own, which ends with the module: a run that starts would join it."""
    import ray
    import transfer_queue as queue
    from hydra import compose, initialize_config_module

    with initialize_config_module("arpo_verl.config", version_base=None):
        config = compose("arpo_trainer", overrides=["platform=cpu"])
    ray.init(address="local", num_cpus=8, include_dashboard=False)
    queue.init(config.transfer_queue)
    yield queue
    queue.close()
    ray.shutdown()


@pytest.fixture
def public_folder(monkeypatch):
    """A folder that others may enter, which pytest's own may not be, and a temporary directory in it."""
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder, "temporary")
        temporary.mkdir()
        corpora = Path(folder, "corpora")
        corpora.mkdir()
        for path, mode in ((folder, 0o755), (temporary, 0o777), (corpora, 0o755)):
            os.chmod(path, mode)
        monkeypatch.setattr(tempfile, "tempdir", str(temporary))
        yield corpora
        os.chmod(corpora, 0o755)
