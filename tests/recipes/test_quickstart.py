"""The quickstart, interrupted: nothing of it goes on."""

import os
import signal
import subprocess
import time
from pathlib import Path

import psutil
import pytest

pytestmark = [pytest.mark.slow, pytest.mark.engine]

ROOT = Path(__file__).parents[2]
MARK = "ARPO_VERL_TEST_OF_INTERRUPTION"


def descendants(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(MARK) == mark:
                found.append(process)
        except psutil.Error:
            continue
    return found


# The later stage has every process that a run has.
@pytest.mark.parametrize("stage", [pytest.param("Ray is up", marks=pytest.mark.nightly), "vLLM is up"])
def test_ctrl_c_leaves_no_process_behind(tmp_path, tmp_path_factory, stage):
    mark = str(tmp_path)
    output = tmp_path_factory.getbasetemp() / "quickstarts" / tmp_path.name  # siblings share the tiny world
    log = tmp_path / "console.log"
    environment = dict(os.environ, OUTPUT=str(output), STEPS="2", **{MARK: mark})
    with log.open("w") as console:
        command = ["bash", str(ROOT / "recipes" / "quickstart.sh")]
        quickstart = subprocess.Popen(command, stdout=console, stderr=console, env=environment, start_new_session=True)
    deadline = time.monotonic() + 600
    while stage not in log.read_text() and quickstart.poll() is None and time.monotonic() < deadline:
        time.sleep(0.5)
    assert stage in log.read_text(), log.read_text()
    assert len(descendants(mark)) > 5
    # A terminal sends the signal to the whole foreground group.
    os.killpg(quickstart.pid, signal.SIGINT)
    assert quickstart.wait(60) == 130
    assert descendants(mark) == []
