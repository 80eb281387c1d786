# shellcheck shell=bash
# LoRA on one GPU of 24 GB, or on as many as the recipe's model needs (GPUS_OF_24_GB). Leaves a prompt are the recipe's own; a
# step has 16 prompts in place of 128. Run in miniature on CPU; not yet on a GPU. costs.md has its memory and hours.
#
# Weights stay in host memory and visit the GPU a layer at a time, in fp32: verl gives the adapter the type of the weights, and in
# bf16 steps of 1e-5 would be lost to rounding.
: "${LORA_RANK:=32}" "${ACTOR_LR:=1e-5}" "${OFFLOAD:=true}" "${LOAD_FORMAT:=safetensors}"
: "${TRAIN_BATCH_SIZE:=16}" "${PPO_MINI_BATCH_SIZE:=4}"
# The logits of a micro-batch take most of the memory: this is one sequence of the longest kind.
: "${PPO_MAX_TOKEN_LEN_PER_GPU:=10240}"
# vLLM's weights are split over the GPUs, as those of the trainer are.
: "${NNODES:=1}" "${NGPUS_PER_NODE:=${GPUS_OF_24_GB:-1}}" "${ROLLOUT_TP:=${GPUS_OF_24_GB:-1}}" "${ROLLOUT_GPU_MEM_UTIL:=0.9}"
