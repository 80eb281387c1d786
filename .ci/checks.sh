#!/usr/bin/env bash
# The jobs of .github/workflows, each to be run on any machine:  bash .ci/checks.sh JOB
# PYTHON is the interpreter that makes environments (python3); outputs/ci has what a job leaves behind.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
PYTHON=${PYTHON:-python3}
OUT=outputs/ci
export PYTHONHASHSEED=${PYTHONHASHSEED:-0}

# environment FILE...: an environment of its own with pinned requirements.
environment() {
  local files=() file
  for file in "$@"; do files+=(--requirement "$file"); done
  "$PYTHON" -m venv "$OUT/env"
  "$OUT/env/bin/python" -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes --only-binary :all: "${files[@]}"
}

# suite: the environment of the tests.
suite() {
  bash recipes/install.sh
  .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes --only-binary :all: \
    --requirement tests/requirements.txt --requirement recipes/requirements-figure.txt --requirement recipes/requirements-gguf.txt
}

mkdir -p "$OUT"
case ${1:-} in
  lint)
    suite
    .venv/bin/ruff check .
    .venv/bin/ruff format --check .
    .venv/bin/shellcheck recipes/*.sh tests/*.sh .ci/run .ci/checks.sh
    ;;
  types)
    suite
    .venv/bin/mypy --no-error-summary
    ;;
  fast)
    suite
    .venv/bin/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder -m "not slow and not nightly"
    ;;
  slow)
    bash tests/run.sh
    bash tests/nightly.sh
    ;;
  wheel)
    suite
    .venv/bin/python -m pip --disable-pip-version-check wheel --quiet --no-deps --no-build-isolation --wheel-dir "$OUT/wheel" .
    .venv/bin/python -m pytest -m slow tests/test_packaging.py
    ;;
  docs)
    environment docs/requirements.txt
    "$OUT/env/bin/mkdocs" build --strict
    ;;
  tag)
    # The tag of a release names the version that the package has.
    VERSION=$(sed -n 's/^    version="\(.*\)",$/\1/p' setup.py)
    [[ ${TAG:-} == "v$VERSION" ]] || { echo "checks.sh: the tag is ${TAG:-not set}; expected v$VERSION, the version in setup.py" >&2; exit 1; }
    grep -q "^## $VERSION$" CHANGELOG.md || { echo "checks.sh: CHANGELOG.md has no section $VERSION" >&2; exit 1; }
    ;;
  *)
    echo "checks.sh: got '${1:-}'; expected lint, types, fast, slow, wheel, docs or tag" >&2
    exit 2
    ;;
esac
