#!/usr/bin/env bash
# The whole suite. Makes .venv if needed. Arguments go to pytest:
#   bash tests/run.sh                  # everything, about an hour on 2 cores
#   bash tests/run.sh -m "not slow"    # without training runs and what waits for time-outs, about five minutes
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash recipes/install.sh

STAMP=.venv/arpo-verl-test-tools
WANTED=$(cat tests/requirements.txt recipes/requirements-figure.txt | sha256sum)
if [[ ! -f $STAMP || $(<"$STAMP") != "$WANTED" ]]; then
  .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes --only-binary :all: \
    --requirement tests/requirements.txt --requirement recipes/requirements-figure.txt
  echo "$WANTED" > "$STAMP"
fi

.venv/bin/ruff check .
.venv/bin/ruff format --check --quiet .
.venv/bin/mypy --no-error-summary
exec .venv/bin/python -m pytest "$@"
