# shellcheck shell=bash
# Any recipe in miniature: two steps in the tiny world, with its model of 0.36 M parameters. 2 cores, 10 GB of memory, no GPU, no
# network; a minute or two, and one more to make the world when WORLD has none.
: "${PYTHON:=$RECIPES/../.venv/bin/python}" # bash recipes/install.sh
: "${WORLD:=outputs/tiny-world}"
[[ $WORLD == /* ]] || WORLD=$PWD/$WORLD
export HF_HUB_OFFLINE=1 RAY_USAGE_STATS_ENABLED=0 VLLM_NO_USAGE_STATS=1

: "${PLATFORM:=cpu}" "${NNODES:=1}" "${NGPUS_PER_NODE:=1}" "${ROLLOUT_TP:=1}"
: "${MODEL_PATH:=$WORLD/model}" "${TRAIN_FILES:=$WORLD/train.parquet}" "${VALIDATION_FILES:=$WORLD/validation.parquet}"
: "${TOOLS:="\${arpo_tools:tools.yaml}"}" "${ARPO_SEARCH_CORPUS:=$WORLD/corpus.jsonl}"
: "${TRAIN_BATCH_SIZE:=4}" "${PPO_MINI_BATCH_SIZE:=2}" "${ROLLOUT_N:=4}" "${INITIAL_ROLLOUTS:=2}"
: "${MAX_PROMPT_LENGTH:=64}" "${MAX_RESPONSE_LENGTH:=128}" "${PPO_MAX_TOKEN_LEN_PER_GPU:=2048}"
: "${ACTOR_LR:=2e-4}" "${TOTAL_STEPS:=2}" "${SAVE_FREQ:=-1}" "${TEST_FREQ:=-1}"

# prepare WORD...: called with the run's overrides when all knobs have been checked.
prepare() {
  [[ ! -f $WORLD/done.json ]] || return 0
  VERL_PLATFORM=cpu "$PYTHON" -W ignore -m arpo_verl.preflight.override_check pkg://arpo_verl.config arpo_trainer "$@" ||
    fail "these overrides can't work; nothing was made"
  # Waiting threads that spin would take the cores from each other where they are shared.
  OMP_WAIT_POLICY=PASSIVE "$PYTHON" -m arpo_verl.tiny_world --out "$WORLD"
}
