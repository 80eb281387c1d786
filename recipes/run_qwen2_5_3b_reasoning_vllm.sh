#!/usr/bin/env bash
# Qwen2.5-3B-Instruct | deep reasoning: maths and multi-hop questions, with Python and search | vLLM rollout, FSDP2 training
#   Hardware: 4 GPUs of 80 GB, or 8 of 40 GB (the paper: 8 H800). PRESET=lora_24gb: one GPU of 24 GB.
#   Cost:     costs.md: memory, hours and tool calls, estimated with their arithmetic. Not yet run on GPUs.
#   Score:    the paper's average over ten benchmarks is 52.8, and 50.4 for GRPO, one run each.
#
#   arpo-verl data convert arpo-reasoning --system-prompt tags --skip-bad-rows --out train.parquet # one row has no answer
#   arpo-verl data convert math500 --system-prompt train.parquet --out validation.parquet
#   export TRAIN_FILES=train.parquet VALIDATION_FILES=validation.parquet ARPO_SEARCH_CORPUS=corpus.jsonl
#   bash recipes/run_qwen2_5_3b_reasoning_vllm.sh                     # ARPO
#   ALGORITHM=grpo bash recipes/run_qwen2_5_3b_reasoning_vllm.sh      # the same without branching; ppo: with a critic
#   PRESET=tiny bash recipes/run_qwen2_5_3b_reasoning_vllm.sh         # this very script in miniature, on CPU
#   bash recipes/run_qwen2_5_3b_reasoning_vllm.sh arpo.advantage=hard # any verl override may follow
#
# The values are the paper's (appendix C), the same for its three models of this task. It gives none for prompt length, tool calls
# and learning rate: those are the released script's for the 7B model. Both search with Bing; the default here is a local corpus.
set -euo pipefail
# shellcheck source=presets.sh
source "$(dirname "${BASH_SOURCE[0]}")/presets.sh"

# ---- user-adjustable; train.sh has more ---------------------------------------------------------------------------------
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-3B-Instruct}
TOOLS=${TOOLS:-"\${arpo_tools:tools.yaml}"} # a verl tool list: Python, and search in ARPO_SEARCH_CORPUS

TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-128}
PPO_MINI_BATCH_SIZE=${PPO_MINI_BATCH_SIZE:-16}
MAX_PROMPT_LENGTH=${MAX_PROMPT_LENGTH:-1536}
MAX_RESPONSE_LENGTH=${MAX_RESPONSE_LENGTH:-4096}
ROLLOUT_N=${ROLLOUT_N:-16}                # M, leaves a prompt
INITIAL_ROLLOUTS=${INITIAL_ROLLOUTS:-8}   # N
BRANCH_FACTOR=${BRANCH_FACTOR:-2}         # Z
BASE_PROBABILITY=${BASE_PROBABILITY:-0.5} # alpha
ENTROPY_WEIGHT=${ENTROPY_WEIGHT:-0.2}     # beta
MAX_TOOL_CALLS=${MAX_TOOL_CALLS:-3}
ACTOR_LR=${ACTOR_LR:-1e-6}
TOTAL_EPOCHS=${TOTAL_EPOCHS:-2}

ROLLOUT_TP=${ROLLOUT_TP:-1}
ROLLOUT_GPU_MEM_UTIL=${ROLLOUT_GPU_MEM_UTIL:-0.6}
PPO_MAX_TOKEN_LEN_PER_GPU=${PPO_MAX_TOKEN_LEN_PER_GPU:-16384} # at least prompt and response
# ---- end user-adjustable ------------------------------------------------------------------------------------------------

# shellcheck source=train.sh
source "$RECIPES/train.sh" "$@"
