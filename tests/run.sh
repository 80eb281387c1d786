#!/usr/bin/env bash
# The suite, without what tests/nightly.sh runs. Makes .venv if needed. Arguments go to pytest:
#   bash tests/run.sh                  # two tests at a time
#   bash tests/run.sh -m "not slow"    # without training runs and what waits for time-outs, a few minutes
#   bash tests/run.sh -n 0             # one test at a time
# The slow tests of the viewer need a browser, Debian's chromium; .ci/run installs it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash recipes/install.sh

STAMP=.venv/arpo-verl-test-tools
WANTED=$(cat tests/requirements.txt recipes/requirements-{figure,gguf}.txt | sha256sum)
if [[ ! -f $STAMP || $(<"$STAMP") != "$WANTED" ]]; then
  .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes --only-binary :all: \
    --requirement tests/requirements.txt --requirement recipes/requirements-figure.txt --requirement recipes/requirements-gguf.txt
  echo "$WANTED" > "$STAMP"
fi

.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet .
.venv/bin/mypy --no-error-summary
.venv/bin/shellcheck recipes/*.sh tests/*.sh .ci/run .ci/checks.sh
# Two workers, a file to one of them, so that what a file's tests share is made once; one has all that start Ray or vLLM, which
# come first (conftest.py). They have to find tests of the same names, some made of sets, whose order is that of their hashes.
export PYTHONHASHSEED=${PYTHONHASHSEED:-$RANDOM}
exec .venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder "$@"
