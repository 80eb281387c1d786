#!/usr/bin/env bash
# Makes an environment for NVIDIA GPUs from nothing, with this project (editable): the torch 2.11.0 (CUDA 13) and vLLM 0.24.0 that
# verl 0.9.1 names, every file checked against its hash. The resolution is tested; it has not been run on a GPU.
#   bash recipes/install_gpu.sh --dry-run             # whether all of it can be had, in seconds and without installing it
#   bash recipes/install_gpu.sh
#   VENV=~/arpo PYTHON=python3.12 FLASH_ATTN=0 bash recipes/install_gpu.sh
#
# flash-attn is published as source alone, and verl's extra `fsdp` can't be installed by one command because that source is built
# where there is no torch yet. Here it is built last, beside the installed torch, which takes a CUDA 13 compiler (nvcc) and long
# (MAX_JOBS=4 limits its memory). Without it (FLASH_ATTN=0) training needs two more overrides, and ALGORITHM=ppo does not work:
#   actor_rollout_ref.model.use_remove_padding=False +actor_rollout_ref.model.override_config.attn_implementation=sdpa
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# ---- user-adjustable ----------------------------------------------------------------------------------------------------
PYTHON=${PYTHON:-python3}
VENV=${VENV:-.venv-gpu}
FLASH_ATTN=${FLASH_ATTN:-1} # 1 builds it, 0 leaves it out
# ---- end user-adjustable ------------------------------------------------------------------------------------------------

# shellcheck source=checks.sh
source recipes/checks.sh

one_of FLASH_ATTN 0 1
(($# == 0)) || [[ $# == 1 && $1 == --dry-run ]] || fail "got $*; expected nothing or --dry-run"
"$PYTHON" - <<'CHECK'
import platform
import sys

if (sys.platform, platform.machine()) not in (("linux", "x86_64"), ("linux", "aarch64")):
    sys.exit(f"install_gpu.sh: {platform.system()} on {platform.machine()}; expected Linux on x86_64 or aarch64")
if not (3, 10) <= sys.version_info[:2] <= (3, 12):
    sys.exit(f"install_gpu.sh: Python {sys.version.split()[0]}; expected 3.10 to 3.12: set PYTHON to one of them")
CHECK

if (($# == 1)); then
  WORK=$(mktemp -d)
  trap 'rm -rf "$WORK"' EXIT
  "$PYTHON" -m venv "$WORK/env"
  UV=${UV:-}
  if [[ -z $UV ]]; then
    "$WORK/env/bin/python" -m pip --disable-pip-version-check install --quiet --require-hashes --requirement recipes/requirements-uv.txt
    UV=$WORK/env/bin/uv
  fi
  files=(--requirement recipes/requirements-gpu.txt)
  "$UV" pip install --no-config --dry-run --python "$WORK/env/bin/python" --require-hashes --only-binary :all: "${files[@]}" \
    --excludes <(echo antlr4-python3-runtime)
  exit 0
fi
if [[ $FLASH_ATTN == 1 ]] && ! command -v nvcc > /dev/null; then
  fail "nvcc is not found, which builds flash-attn; expected CUDA 13's compiler: install the CUDA toolkit, or set FLASH_ATTN=0"
fi

[[ -x $VENV/bin/python ]] || "$PYTHON" -m venv "$VENV"
pip() { "$VENV/bin/python" -m pip --disable-pip-version-check install --no-deps "$@"; }
pinned() { pip --require-hashes "$@"; }
pinned --only-binary :all: --requirement recipes/requirements-gpu.txt
pinned --use-pep517 --no-build-isolation --requirement recipes/requirements-source.txt
if [[ $FLASH_ATTN == 1 ]]; then
  pinned --use-pep517 --no-build-isolation --requirement recipes/requirements-flash-attn.txt
fi
pip --no-build-isolation --editable .
echo "installed into $VENV; next: $VENV/bin/arpo-verl doctor"
