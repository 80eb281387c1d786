"""Owns a Python tool as a training process does, with secrets to steal, and runs what its standard input asks for.

One JSON list of [program, options] a line. It is a program of its own so that it can run as another user than the
tests.
"""

import asyncio
import functools
import json
import os
import subprocess
import sys

from arpo_tools import PythonInterpreter

SECRET_IN_MEMORY = os.environ["ARPO_TEST_SECRET"][::-1][::-1]


@functools.cache
def interpreter(options: str) -> PythonInterpreter:
    return PythonInterpreter(**json.loads(options))


async def run(code: str, options: dict) -> dict[str, str]:
    python = interpreter(json.dumps(options, sort_keys=True))
    result = await python.run(code)
    return {"text": result.text, "status": result.status.value, "level": (await python.start()).level}


async def main() -> None:
    # Two victims: a process and an open file that is not marked to be closed in children.
    victim = subprocess.Popen(["sleep", "100000"], start_new_session=True)
    leaked = os.open(sys.argv[1], os.O_RDWR)
    os.set_inheritable(leaked, True)
    print(json.dumps({"victim": victim.pid}), flush=True)
    loop = asyncio.get_running_loop()
    try:
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(json.dumps(await asyncio.gather(*(run(*call) for call in json.loads(line)))), flush=True)
    finally:
        victim.kill()
        victim.wait()


asyncio.run(main())
