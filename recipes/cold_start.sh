#!/usr/bin/env bash
# Cold start: supervised training on traces of tool use, on verl's own SFT trainer, for a model that does not write the calls yet.
#   Hardware: a 7B or 8B model: 8 GPUs of 80 GB. A 3B model by LoRA: one of 24 GB. Both are estimates; not yet run on GPUs.
#   Memory:   8B, all weights: weights, gradients and Adam's two moments in fp32 are 16 bytes a parameter, over 8 GPUs 16 GB each;
#             a micro-batch of 16 384 tokens: checkpointed activations 16 384 x 4096 x 36 layers x 2 bytes = 5 GB; logits 16 384 x
#             152 000 in bf16 and their gradient in fp32: 15 GB, and a copy. Together 45 GB.
#             3B by LoRA with the knobs below: weights in bf16 6 GB, 4096 tokens: activations 1 GB, logits 5 GB. Together 12 GB.
#   Result:   $OUTPUT/checkpoints/global_step_N, which `arpo-verl export $OUTPUT/checkpoints MODEL` makes a Hugging Face model.
#
#   arpo-verl data traces traces.json --out traces.parquet --tokenizer MODEL --max-tokens 4096
#   TRAIN_FILES=traces.parquet bash recipes/cold_start.sh
#   TRAIN_FILES=traces.parquet SYNTAX=native bash recipes/cold_start.sh        # the model's own tool-call format
#   TRAIN_FILES=traces.parquet LORA_RANK=32 LR=1e-4 MODEL_DTYPE=bf16 MAX_TOKEN_LEN_PER_GPU=4096 NGPUS_PER_NODE=1 \
#     MODEL_PATH=Qwen/Qwen2.5-3B-Instruct bash recipes/cold_start.sh
#   TRAIN_FILES=traces.parquet bash recipes/cold_start.sh optim.clip_grad=0.5  # any verl override may follow
#
# The same script in miniature, on 2 CPU cores in two minutes:
#   python -m arpo_verl.tiny_world --out tiny --cold-start-steps 0 --traces 12800
#   arpo-verl data traces tiny/traces.jsonl --out tiny/traces.parquet
#   PLATFORM=cpu MODEL_PATH=tiny/model TRAIN_FILES=tiny/traces.parquet TRAIN_BATCH_SIZE=16 TOTAL_EPOCHS=1 LR=4e-3 \
#     MAX_LENGTH=256 OUTPUT=tiny/cold-start bash recipes/cold_start.sh
#
# Learning rate, batch, weight decay, epochs and length are the paper's (appendix C), which trained on 54K Tool-Star and 0.8K STILL
# traces; schedule and warm-up are the released yaml's. That yaml differs in the length: MAX_LENGTH=15000; both cut longer traces,
# which TRUNCATION=right does; the default refuses them. A second call with the same OUTPUT goes on at the last checkpoint.
set -euo pipefail
# shellcheck source=checks.sh
source "$(dirname "${BASH_SOURCE[0]}")/checks.sh"

# ---- user-adjustable ----------------------------------------------------------------------------------------------------
PYTHON=${PYTHON:-python3}            # of an environment in which arpo-verl is installed
PLATFORM=${PLATFORM:-gpu}            # gpu or cpu
MODEL_PATH=${MODEL_PATH:-Qwen/Qwen2.5-7B-Instruct}
TRAIN_FILES=${TRAIN_FILES:-}         # of `arpo-verl data traces`; [several,of,them] too
VALIDATION_FILES=${VALIDATION_FILES:-null} # the same; their loss is logged every TEST_FREQ steps
SYNTAX=${SYNTAX:-tags}               # tags or native, as in `arpo-verl data traces --syntax`
OUTPUT=${OUTPUT:-outputs/cold-start}

LR=${LR:-7e-6}
WARMUP_RATIO=${WARMUP_RATIO:-0.1}
WEIGHT_DECAY=${WEIGHT_DECAY:-0.1}
TRAIN_BATCH_SIZE=${TRAIN_BATCH_SIZE:-128}
TOTAL_EPOCHS=${TOTAL_EPOCHS:-3}
TOTAL_STEPS=${TOTAL_STEPS:-null}     # null: as many as TOTAL_EPOCHS have; at most that many
MAX_LENGTH=${MAX_LENGTH:-4096}       # tokens of a trace
TRUNCATION=${TRUNCATION:-error}      # of longer ones: error, or right to cut them
MAX_TOKEN_LEN_PER_GPU=${MAX_TOKEN_LEN_PER_GPU:-16384} # tokens of a micro-batch, at least MAX_LENGTH
MODEL_DTYPE=${MODEL_DTYPE:-fp32}     # of the trained weights and their optimiser; computation is in bf16
LORA_RANK=${LORA_RANK:-0}            # 0 trains all weights
LORA_ALPHA=${LORA_ALPHA:-}           # default: twice the rank

NNODES=${NNODES:-1}                  # more than one: MASTER_ADDR, MASTER_PORT and NODE_RANK too, on each of them
NGPUS_PER_NODE=${NGPUS_PER_NODE:-}   # default: 8, on CPU 1 process
SAVE_FREQ=${SAVE_FREQ:-after_each_epoch} # or a number of steps
TEST_FREQ=${TEST_FREQ:-}             # default: after_each_epoch if there are VALIDATION_FILES
LOGGER=${LOGGER:-[console,file]}     # any of verl's: [console,file,wandb]
# ---- end user-adjustable ------------------------------------------------------------------------------------------------

one_of SYNTAX tags native
one_of PLATFORM gpu cpu
one_of TRUNCATION error right left
one_of MODEL_DTYPE fp32 bf16 fp16
whole_number 0 LORA_RANK
LORA_ALPHA=${LORA_ALPHA:-$((2 * LORA_RANK))}
whole_number 0 LORA_ALPHA
whole_number 1 TRAIN_BATCH_SIZE TOTAL_EPOCHS MAX_LENGTH MAX_TOKEN_LEN_PER_GPU NNODES
whole_number_or null 1 TOTAL_STEPS
[[ -z $NGPUS_PER_NODE ]] || whole_number 1 NGPUS_PER_NODE
[[ $SAVE_FREQ == -1 ]] || whole_number_or after_each_epoch 1 SAVE_FREQ
[[ -z $TEST_FREQ || $TEST_FREQ == -1 ]] || whole_number_or after_each_epoch 1 TEST_FREQ
decimal LR WARMUP_RATIO WEIGHT_DECAY
((MAX_TOKEN_LEN_PER_GPU >= MAX_LENGTH)) ||
  fail "MAX_TOKEN_LEN_PER_GPU=$MAX_TOKEN_LEN_PER_GPU; expected at least MAX_LENGTH=$MAX_LENGTH, one whole trace"
[[ -n $TRAIN_FILES ]] || fail "TRAIN_FILES is not set; expected a parquet of 'arpo-verl data traces'"
for files in "$TRAIN_FILES" "$VALIDATION_FILES"; do
  [[ $files == \[* || $files == null || -f $files ]] || fail "$files: no such file; expected a parquet of 'arpo-verl data traces'"
done
case $SYNTAX in
  tags) DATASET=TagTraceDataset ;;
  native) DATASET=NativeTraceDataset ;;
esac
case $PLATFORM in
  gpu)
    NGPUS_PER_NODE=${NGPUS_PER_NODE:-8}
    PLATFORM_ARGUMENTS=()
    ;;
  cpu)
    NGPUS_PER_NODE=${NGPUS_PER_NODE:-1}
    export VERL_PLATFORM=cpu OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    PLATFORM_ARGUMENTS=(
      trainer.device=cpu
      data.num_workers=0
      model.use_remove_padding=False # needs flash-attn, which needs a GPU
      +model.override_config.attn_implementation=sdpa
      model.enable_gradient_checkpointing=False
      engine.use_torch_compile=False
      +engine.mixed_precision.param_dtype=fp32
      +engine.mixed_precision.reduce_dtype=fp32
      +engine.mixed_precision.buffer_dtype=fp32
    )
    ;;
esac

# Without data verl's validation fails.
if [[ $VALIDATION_FILES == null ]]; then TEST_FREQ=-1; fi
TEST_FREQ=${TEST_FREQ:-after_each_epoch}
if ((NNODES > 1)); then
  [[ -n ${MASTER_ADDR:-} && -n ${NODE_RANK:-} ]] ||
    fail "NNODES=$NNODES; expected MASTER_ADDR, the first node's address, and NODE_RANK, 0 to $((NNODES - 1))"
  LAUNCH=(--nnodes="$NNODES" --node-rank="$NODE_RANK" --master-addr="$MASTER_ADDR" --master-port="${MASTER_PORT:-29500}")
else
  LAUNCH=(--standalone)
fi

[[ $OUTPUT == /* ]] || OUTPUT=$PWD/$OUTPUT
mkdir -p "$OUTPUT"
export VERL_FILE_LOGGER_PATH=${VERL_FILE_LOGGER_PATH:-$OUTPUT/metrics.jsonl}

DATA=(
  data.train_files="$(quoted "$TRAIN_FILES")"
  data.val_files="$(quoted "$VALIDATION_FILES")"
  data.custom_cls.path=pkg://arpo_verl.integration.training.trace_dataset
  data.custom_cls.name="$DATASET"
  data.train_batch_size="$TRAIN_BATCH_SIZE"
  data.max_length="$MAX_LENGTH"
  data.truncation="$TRUNCATION"
  data.use_dynamic_bsz=True
  data.max_token_len_per_gpu="$MAX_TOKEN_LEN_PER_GPU"
)
MODEL=(
  model.path="$(quoted "$MODEL_PATH")"
  model.lora_rank="$LORA_RANK"
  model.lora_alpha="$LORA_ALPHA"
)
ENGINE=(
  engine.strategy=fsdp2
  engine.model_dtype="$MODEL_DTYPE"
)
OPTIM=(
  optim.lr="$LR"
  optim.weight_decay="$WEIGHT_DECAY"
  optim.lr_scheduler_type=cosine
  optim.lr_warmup_steps_ratio="$WARMUP_RATIO"
)
TRAINER=(
  trainer.project_name=arpo_verl
  trainer.experiment_name="$(quoted "$(basename "$OUTPUT")")"
  trainer.default_local_dir="$(quoted "$OUTPUT/checkpoints")"
  trainer.total_epochs="$TOTAL_EPOCHS"
  trainer.total_training_steps="$TOTAL_STEPS"
  trainer.save_freq="$SAVE_FREQ"
  trainer.test_freq="$TEST_FREQ"
  trainer.max_ckpt_to_keep=1
  trainer.logger="$LOGGER"
  trainer.nnodes="$NNODES"
  trainer.n_gpus_per_node="$NGPUS_PER_NODE"
  hydra.run.dir="$(quoted "$OUTPUT/hydra")"
)

"$PYTHON" -m torch.distributed.run "${LAUNCH[@]}" --nproc-per-node="$NGPUS_PER_NODE" -m verl.trainer.sft_trainer \
  "${DATA[@]}" "${MODEL[@]}" "${ENGINE[@]}" "${OPTIM[@]}" "${TRAINER[@]}" "${PLATFORM_ARGUMENTS[@]}" "$@"

echo "next: arpo-verl export $OUTPUT/checkpoints MODEL"
