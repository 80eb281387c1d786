#!/usr/bin/env bash
# Qwen3-14B | deep search: hard questions, with web search, a page browser and Python | vLLM rollout, FSDP2 training
#   Hardware: 2 machines of 8 GPUs of 80 GB (the paper: 16 H800); or one, with NNODES=1. PRESET=lora_24gb: two GPUs of 24 GB.
#   Cost:     costs.md: memory, hours, tool calls and paid searches, estimated with their arithmetic. Not yet run on GPUs.
#   Score:    the paper's is GAIA 43.7, WebWalker 36.0, HLE 10.0, xbench 32.0 (GRPO: 36.9, 30.0, 8.6, 27.0), one run each.
#
#   arpo-verl data convert arpo-deepsearch --system-prompt tags --tools python,search,browse --out train.parquet
#   arpo-verl data convert xbench-deepsearch --system-prompt train.parquet --out val.parquet
#   export TRAIN_FILES=train.parquet VALIDATION_FILES=val.parquet SERPER_API_KEY=...
#   RAY_ADDRESS=HOST:6379 bash recipes/run_qwen3_14b_deep_search_vllm.sh # ARPO, on a Ray cluster of two machines: README.md
#   ALGORITHM=grpo RAY_ADDRESS=HOST:6379 bash recipes/run_qwen3_14b_deep_search_vllm.sh # the same without branching
#   PRESET=tiny bash recipes/run_qwen3_14b_deep_search_vllm.sh           # this very script in miniature, on CPU, without the web
#
# The values are the paper's (appendix C), the same for its two models of this task. It gives none for prompt length, tool calls
# and learning rate: those are the released code's. Its script differs from the paper and is had by
#   TRAIN_BATCH_SIZE=64 PPO_MINI_BATCH_SIZE=8 MAX_RESPONSE_LENGTH=6192 ROLLOUT_N=12 INITIAL_ROLLOUTS=6
# About tool calls and browser see run_qwen3_8b_deep_search_vllm.sh. Both search with Bing.
set -euo pipefail
# Its weights are 29.5 GB in bf16.
export GPUS_OF_24_GB=2 # for PRESET=lora_24gb
# shellcheck source=presets.sh
source "$(dirname "${BASH_SOURCE[0]}")/presets.sh"

# ---- user-adjustable; train.sh has more ---------------------------------------------------------------------------------
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen3-14B}
TOOLS=${TOOLS:-"\${arpo_tools:web_tools.yaml}"} # a verl tool list: Python, web search by SERPER_API_KEY, page browser

TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-128}
PPO_MINI_BATCH_SIZE=${PPO_MINI_BATCH_SIZE:-16}
MAX_PROMPT_LENGTH=${MAX_PROMPT_LENGTH:-2000}
MAX_RESPONSE_LENGTH=${MAX_RESPONSE_LENGTH:-8192}
ROLLOUT_N=${ROLLOUT_N:-16}                # M, leaves a prompt
INITIAL_ROLLOUTS=${INITIAL_ROLLOUTS:-8}   # N
BRANCH_FACTOR=${BRANCH_FACTOR:-2}         # Z
BASE_PROBABILITY=${BASE_PROBABILITY:-0.5} # alpha
ENTROPY_WEIGHT=${ENTROPY_WEIGHT:-0.2}     # beta
MAX_TOOL_CALLS=${MAX_TOOL_CALLS:-6}
ACTOR_LR=${ACTOR_LR:-1e-6}
NNODES=${NNODES:-2}
TOTAL_EPOCHS=${TOTAL_EPOCHS:-5}

ROLLOUT_TP=${ROLLOUT_TP:-2}
ROLLOUT_GPU_MEM_UTIL=${ROLLOUT_GPU_MEM_UTIL:-0.6}
PPO_MAX_TOKEN_LEN_PER_GPU=${PPO_MAX_TOKEN_LEN_PER_GPU:-16384} # at least prompt and response
# ---- end user-adjustable ------------------------------------------------------------------------------------------------

# shellcheck source=train.sh
source "$RECIPES/train.sh" "$@"
