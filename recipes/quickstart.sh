#!/usr/bin/env bash
# A 0.3 M parameter agent learns to use two real tools by ARPO, on CPU: unmodified verl 0.9.1 (V1 trainer, Ray, TransferQueue,
# FSDP2) and a real vLLM engine.
#   Hardware: 2 cores, 10 GB of memory, no GPU. Time: about 6 minutes after installation.
#   Result:   validation reward up by 0.25 to 0.41.
#
#   bash recipes/quickstart.sh                        # ARPO
#   ALGORITHM=grpo bash recipes/quickstart.sh         # the same run without branching
#   bash recipes/quickstart.sh arpo.rule=threshold    # any verl override may follow
set -euo pipefail

# ---- user-adjustable ---------------------------------------------------------------------------------------------------
export ALGORITHM=${ALGORITHM:-arpo}
export SEED=${SEED:-0}
export STEPS=${STEPS:-20}
export OUTPUT=${OUTPUT:-outputs/quickstart-$ALGORITHM-seed$SEED}
# ------------------------------------------------------------------------------------------------------------------------

# shellcheck source=checks.sh
source "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
one_of ALGORITHM arpo grpo
whole_number 0 SEED
whole_number 1 STEPS

[[ $OUTPUT == /* ]] || OUTPUT=$PWD/$OUTPUT
cd "$HERE/.."
bash recipes/install.sh
# exec, so that Ctrl-C reaches the program that cleans up.
exec .venv/bin/python recipes/quickstart.py "$@"
