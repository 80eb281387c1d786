# shellcheck shell=bash
# LoRA on one GPU of 24 GB, or on as many as the recipe's model needs (GPUS_OF_24_GB). Leaves a prompt are the recipe's own; a step
# has 16 prompts in place of 128. Run in miniature on CPU; not yet on a GPU.
#
# Memory of an 8 B model while it trains, at most: the weights (16 GB in bf16) stay in host memory and visit the GPU a layer at a
# time, with the next one on its way: 2 x 0.4 GB, and 1.2 GB for the output layer. One sequence of 10 240 tokens at a time:
# checkpointed activations 10 240 x 4096 x 36 layers x 2 bytes = 3.0 GB, logits 10 240 x 152 000 x 2 bytes = 3.1 GB, as much for
# their gradient and for one copy. Together 14 GB.
# While it generates: weights 16.4 GB, vLLM's working memory 1.5 GB, and of 0.9 x 24 GB the rest for the KV cache: 3.7 GB, which is
# 25 000 tokens of Qwen3-8B (147 KB each). Host memory: the trainer's weights and vLLM's, which sleep there: 2 x 16 GB, and 10 GB.
: "${LORA_RANK:=32}" "${ACTOR_LR:=1e-5}" "${MODEL_DTYPE:=bf16}" "${OFFLOAD:=true}" "${LOAD_FORMAT:=safetensors}"
# The weights of vLLM are split over the GPUs, as those of the trainer are.
: "${NNODES:=1}" "${NGPUS_PER_NODE:=${GPUS_OF_24_GB:-1}}" "${ROLLOUT_TP:=${GPUS_OF_24_GB:-1}}" "${ROLLOUT_GPU_MEM_UTIL:=0.9}"
: "${TRAIN_BATCH_SIZE:=16}" "${PPO_MINI_BATCH_SIZE:=4}"
