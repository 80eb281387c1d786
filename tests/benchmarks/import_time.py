"""How much longer `import verl` takes with the plug-in: `python tests/benchmarks/import_time.py`.

Fresh interpreters, with and without the plug-in in turns, medians. The aim is a ratio of at most 1.5.
"""

import os
import statistics
import subprocess
import sys
import time

ROUNDS = 7


def seconds(plugins: str) -> float:
    start = time.perf_counter()
    environment = dict(os.environ, VERL_USE_EXTERNAL_PLUGINS=plugins)
    subprocess.run(
        [sys.executable, "-c", "import verl"], check=True, env=environment, cwd="/", stderr=subprocess.DEVNULL
    )
    return time.perf_counter() - start


def main() -> None:
    times: dict[str, list[float]] = {"none": [], "auto": []}
    for _ in range(ROUNDS):
        for plugins, taken in times.items():
            taken.append(seconds(plugins))
    without, with_plugin = (statistics.median(times[plugins]) for plugins in ("none", "auto"))
    print(f"import verl without the plug-in  {without:.2f} s\nimport verl with it              {with_plugin:.2f} s")
    print(f"ratio                            {with_plugin / without:.2f}")


if __name__ == "__main__":
    main()
