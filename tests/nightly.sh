#!/usr/bin/env bash
# What tests/run.sh leaves out: further cases of training runs, one at a time. Arguments go to pytest:
#   bash tests/nightly.sh                    # all of it
#   bash tests/nightly.sh --last-failed      # what failed, again
#   bash tests/nightly.sh tests/recipes      # a part
set -euo pipefail
exec bash "$(dirname "${BASH_SOURCE[0]}")/run.sh" --numprocesses 0 -m nightly "$@"
