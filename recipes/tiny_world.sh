#!/usr/bin/env bash
# From nothing to a number in the tiny world: data, cold start, ARPO, export, evaluation, comparison. Every step is the command that a
# real run takes; README.md explains them.
#   Hardware: 2 cores, 10 GB of memory, no GPU. Time: about 6 minutes after installation.
#   Result:   a table of the cold-started and the trained model on held-out questions, and their difference with its interval.
#
#   bash recipes/tiny_world.sh
#   ALGORITHM=grpo bash recipes/tiny_world.sh                       # from the same cold start, without branching
#   STEPS=2 COLD_START_STEPS=40 N=1 bash recipes/tiny_world.sh      # to see that it works
# Everything is made anew, but for the cold-started model where it was made in as many steps.
set -euo pipefail

# ---- user-adjustable ----------------------------------------------------------------------------------------------------
WORLD=${WORLD:-outputs/tiny-world}
COLD_START_STEPS=${COLD_START_STEPS:-800}
STEPS=${STEPS:-20}
N=${N:-4}                  # samples of each of the 72 questions
export ALGORITHM=${ALGORITHM:-arpo}
# ---- end user-adjustable ------------------------------------------------------------------------------------------------

# shellcheck source=checks.sh
source "$(dirname "${BASH_SOURCE[0]}")/checks.sh"
one_of ALGORITHM arpo grpo ppo
whole_number 1 COLD_START_STEPS STEPS N

[[ $WORLD == /* ]] || WORLD=$PWD/$WORLD
cd "$HERE/.."
bash recipes/install.sh
export PATH=$PWD/.venv/bin:$PATH PYTHON=$PWD/.venv/bin/python
export WORLD PLATFORM=cpu VERL_PLATFORM=cpu OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1
export ARPO_SEARCH_CORPUS=$WORLD/corpus.jsonl

step() {
  PART=$*
  printf '\n== %s\n' "$*"
}
PART=beginning
trap 'code=$?; ((code == 0)) || echo "tiny_world.sh: ended with code $code in: $PART" >&2' EXIT

COLD=$WORLD/cold-start-$COLD_START_STEPS
RUN=$WORLD/$ALGORITHM-$STEPS

if [[ ! -f $COLD/model/config.json ]]; then
  step "data: an untrained model, traces for the cold start, questions"
  python -m arpo_verl.tiny_world --out "$WORLD" --cold-start-steps 0 --traces $((16 * COLD_START_STEPS))
  arpo-verl data traces "$WORLD/traces.jsonl" --out "$WORLD/traces.parquet" --overwrite
  arpo-verl data validate "$WORLD/train.parquet" "$WORLD/validation.parquet"

  step "cold start: $COLD_START_STEPS steps on verl's SFT trainer"
  rm -rf "$COLD"
  mkdir -p "$COLD"
  logged "$COLD/train.log" \
    env MODEL_PATH="$WORLD/model" TRAIN_FILES="$WORLD/traces.parquet" TRAIN_BATCH_SIZE=16 TOTAL_EPOCHS=1 LR=4e-3 MAX_LENGTH=256 \
    OUTPUT="$COLD" bash recipes/cold_start.sh
  arpo-verl export "$COLD/checkpoints" "$COLD/model"
fi

step "reinforcement learning: $STEPS steps of $ALGORITHM, by a recipe for a large model in miniature"
rm -rf "$RUN"
mkdir -p "$RUN"
logged "$RUN/train.log" \
  env PRESET=tiny MODEL_PATH="$COLD/model" OUTPUT="$RUN" \
  TRAIN_BATCH_SIZE=16 PPO_MINI_BATCH_SIZE=8 ROLLOUT_N=8 INITIAL_ROLLOUTS=4 TOTAL_STEPS="$STEPS" SAVE_FREQ="$STEPS" \
  bash recipes/run_qwen2_5_3b_reasoning_vllm.sh
arpo-verl export "$RUN/checkpoints" "$RUN/model"

for folder in "$COLD" "$RUN"; do
  step "evaluation of $folder/model"
  rm -f "$folder/evaluation.jsonl"
  arpo-verl eval run --data "$WORLD/validation.parquet" --out "$folder/evaluation.jsonl" --start-vllm --model "$folder/model" \
    --n "$N" --temperature 1 platform=cpu data.max_prompt_length=64 data.max_response_length=128
  arpo-verl eval score "$folder/evaluation.jsonl"
done

step "comparison: $COLD against $RUN"
arpo-verl eval compare "$COLD/evaluation.jsonl" "$RUN/evaluation.jsonl"
