#!/usr/bin/env bash
# Algorithms of the family compared on the tiny world, an arm for each preset (`arpo-verl algorithms`): the quickstart's training run
# for each arm and seed, one after the other.
#   Hardware: 2 cores, 10 GB of memory, no GPU. Time: about 3 minutes a run; 20 runs by default.
#   Result:   $RESULTS/comparison.md and comparison.svg, and a summary of each run. What came out is in recipes/comparison.md.
#
#   bash recipes/compare.sh                            # a second call goes on where the first was interrupted
#   SEEDS="0 1" ARMS="grpo arpo_soft tree_grpo" bash recipes/compare.sh
#   OUTPUT=outputs/z3 bash recipes/compare.sh arpo.branch_factor=3    # any verl override may follow; it holds for all arms
set -euo pipefail

# ---- user-adjustable ---------------------------------------------------------------------------------------------------
export ARMS=${ARMS:-grpo arpo_soft arpo_hard arpo_random}
export SEEDS=${SEEDS:-0 1 2 3 4}
export STEPS=${STEPS:-20}
export OUTPUT=${OUTPUT:-outputs/comparison}       # logs, records and checkpoints of the runs
export RESULTS=${RESULTS:-$OUTPUT}                # what is looked at to go on, and what comes out
# ------------------------------------------------------------------------------------------------------------------------

# shellcheck source=checks.sh
source "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
mapfile -t PRESETS < <(basename -as .yaml "$HERE"/../arpo_verl/presets/*.yaml)
some_of ARMS "${PRESETS[@]}"
whole_numbers 0 SEEDS
whole_number 1 STEPS

[[ $OUTPUT == /* ]] || OUTPUT=$PWD/$OUTPUT
[[ $RESULTS == /* ]] || RESULTS=$PWD/$RESULTS
cd "$HERE/.."
bash recipes/install.sh

STAMP=.venv/arpo-verl-figure-tools
WANTED=$(sha256sum < recipes/requirements-figure.txt)
if [[ ! -f $STAMP || $(<"$STAMP") != "$WANTED" ]]; then
  .venv/bin/python -m pip --disable-pip-version-check install --quiet --no-deps --require-hashes --only-binary :all: \
    --requirement recipes/requirements-figure.txt
  echo "$WANTED" > "$STAMP"
fi

# exec, so that Ctrl-C reaches the program that cleans up.
exec .venv/bin/python recipes/compare.py "$@"
