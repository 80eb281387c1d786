# shellcheck shell=bash
# Sourced by the recipes after their settings: turns them into verl's overrides and runs verl over the preset arpo_trainer.
# `PYTHON=echo bash recipes/run_....sh` prints the command, `bash recipes/run_....sh --cfg job` verl's whole configuration.

# ---- user-adjustable, with the same default in every recipe -------------------------------------------------------------
PYTHON=${PYTHON:-python3}                  # of an environment in which arpo-verl is installed
PLATFORM=${PLATFORM:-gpu}                  # gpu or cpu
ALGORITHM=${ALGORITHM:-arpo}               # arpo, grpo or ppo; all else stays the same, the leaves a prompt too
NNODES=${NNODES:-1}                        # for more than one, RAY_ADDRESS is the head of a Ray cluster; README.md
NGPUS_PER_NODE=${NGPUS_PER_NODE:-8}
TOTAL_STEPS=${TOTAL_STEPS:-null}           # null: as many as TOTAL_EPOCHS have
CRITIC_LR=${CRITIC_LR:-1e-5}               # verl's default: the paper has no PPO
MODEL_DTYPE=${MODEL_DTYPE:-fp32}           # of the trained weights and their optimiser; computation is in bf16
LORA_RANK=${LORA_RANK:-0}                  # 0 trains all weights
OFFLOAD=${OFFLOAD:-false}                  # true: weights and optimiser stay in host memory and visit the GPU a layer at a time
LOAD_FORMAT=${LOAD_FORMAT:-dummy}          # of vLLM's weights at the start; dummy waits for the trainer's
SAVE_FREQ=${SAVE_FREQ:-20}
TEST_FREQ=${TEST_FREQ:-10}
LOGGER=${LOGGER:-[console,file]}           # any of verl's: [console,file,wandb]
EXPERIMENT_NAME=${EXPERIMENT_NAME:-$(basename "$0" .sh | sed 's/^run_//')-$ALGORITHM}
OUTPUT=${OUTPUT:-outputs/$EXPERIMENT_NAME} # checkpoints, rollouts, validation, metrics
# ---- end user-adjustable ------------------------------------------------------------------------------------------------

one_of ALGORITHM arpo grpo ppo
one_of PLATFORM gpu cpu
one_of MODEL_DTYPE fp32 bf16 fp16
one_of OFFLOAD true false
whole_number 1 NNODES NGPUS_PER_NODE TRAIN_BATCH_SIZE PPO_MINI_BATCH_SIZE MAX_PROMPT_LENGTH MAX_RESPONSE_LENGTH BRANCH_FACTOR \
  TOTAL_EPOCHS ROLLOUT_TP PPO_MAX_TOKEN_LEN_PER_GPU
whole_number 2 ROLLOUT_N
whole_number 0 MAX_TOOL_CALLS LORA_RANK
whole_number_or null 1 TOTAL_STEPS INITIAL_ROLLOUTS
whole_number_or -1 1 SAVE_FREQ TEST_FREQ
decimal BASE_PROBABILITY ENTROPY_WEIGHT ACTOR_LR CRITIC_LR ROLLOUT_GPU_MEM_UTIL
if [[ $INITIAL_ROLLOUTS != null ]] && ((INITIAL_ROLLOUTS > ROLLOUT_N)); then
  fail "INITIAL_ROLLOUTS=$INITIAL_ROLLOUTS; expected at most ROLLOUT_N=$ROLLOUT_N"
fi
expect TRAIN_FILES "a verl parquet file, or [several,of,them]; 'arpo-verl data convert' makes one"
expect VALIDATION_FILES "a verl parquet file, or [several,of,them]; 'arpo-verl data convert' makes one"
if [[ $TOOLS == *:tools.yaml* ]]; then
  expect ARPO_SEARCH_CORPUS "the corpus of the local search, a JSONL file with {\"title\": ..., \"contents\": ...} a line"
elif [[ $TOOLS == *:web_tools.yaml* ]]; then
  expect SERPER_API_KEY "the key of the web search; or TOOLS=FILE.yaml for a verl tool list with another search"
fi
if ((NNODES > 1)); then
  expect RAY_ADDRESS "HOST:PORT of a running Ray cluster of $NNODES machines"
fi

ESTIMATOR=$ALGORITHM
[[ $ALGORITHM != ppo ]] || ESTIMATOR=gae
if [[ $ALGORITHM == ppo && $LORA_RANK != 0 ]]; then
  fail "ALGORITHM=ppo with LORA_RANK=$LORA_RANK; expected 0: beside the adapter, PPO trains a critic of the model's size"
fi

[[ $OUTPUT == /* ]] || OUTPUT=$PWD/$OUTPUT
mkdir -p "$OUTPUT"
# ARPO_OUTPUT is where web_tools.yaml keeps its count of paid searches.
export ARPO_SEARCH_CORPUS ARPO_OUTPUT=$OUTPUT VERL_FILE_LOGGER_PATH=${VERL_FILE_LOGGER_PATH:-$OUTPUT/metrics.jsonl}

case $PLATFORM in
  gpu) MACHINE=() ;;
  cpu)
    export VERL_PLATFORM=cpu OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
    MACHINE=(platform=cpu)
    ;;
esac
if ((NNODES > 1)); then
  # A running cluster knows its own resources, and its processes have the environment of their `ray start`, not this one.
  MACHINE+=(
    ++ray_kwargs.ray_init.address="$RAY_ADDRESS"
    ++ray_kwargs.ray_init.num_cpus=null
    ++ray_kwargs.ray_init.num_gpus=null
    ++ray_kwargs.ray_init.runtime_env.env_vars.ARPO_OUTPUT="$ARPO_OUTPUT"
    ${ARPO_SEARCH_CORPUS:+"++ray_kwargs.ray_init.runtime_env.env_vars.ARPO_SEARCH_CORPUS=$ARPO_SEARCH_CORPUS"}
    ++ray_kwargs.ray_init.runtime_env.env_vars.VERL_FILE_LOGGER_PATH="$VERL_FILE_LOGGER_PATH"
  )
fi

DATA=(
  data.train_files="$(quoted "$TRAIN_FILES")"
  data.val_files="$(quoted "$VALIDATION_FILES")"
  data.train_batch_size="$TRAIN_BATCH_SIZE"
  data.max_prompt_length="$MAX_PROMPT_LENGTH"
  data.max_response_length="$MAX_RESPONSE_LENGTH"
  data.filter_overlong_prompts=true
)

MODEL=(
  actor_rollout_ref.model.path="$(quoted "$MODEL_PATH")"
  actor_rollout_ref.model.lora_rank="$LORA_RANK"
  actor_rollout_ref.model.lora_alpha="$LORA_RANK"
)

# Clipping at 0.2 and 3.0, the mean over tokens, no KL and no entropy bonus are the paper's, and verl's defaults.
ACTOR=(
  actor_rollout_ref.actor.strategy=fsdp2
  actor_rollout_ref.actor.optim.lr="$ACTOR_LR"
  actor_rollout_ref.actor.ppo_mini_batch_size="$PPO_MINI_BATCH_SIZE"
  actor_rollout_ref.actor.use_dynamic_bsz=true
  actor_rollout_ref.actor.ppo_max_token_len_per_gpu="$PPO_MAX_TOKEN_LEN_PER_GPU"
  actor_rollout_ref.actor.entropy_from_logits_with_chunking=true
  actor_rollout_ref.actor.fsdp_config.model_dtype="$MODEL_DTYPE"
  actor_rollout_ref.actor.fsdp_config.offload_policy="$OFFLOAD"
)

# Temperature 1 and top-p 1 in training, greedy in validation: verl's defaults.
ROLLOUT=(
  actor_rollout_ref.rollout.name=vllm
  actor_rollout_ref.rollout.n="$ROLLOUT_N"
  actor_rollout_ref.rollout.tensor_model_parallel_size="$ROLLOUT_TP"
  actor_rollout_ref.rollout.gpu_memory_utilization="$ROLLOUT_GPU_MEM_UTIL"
  actor_rollout_ref.rollout.load_format="$LOAD_FORMAT"
  actor_rollout_ref.rollout.multi_turn.tool_config_path="$(quoted "$TOOLS")"
)

ARPO=(
  algorithm.adv_estimator="$ESTIMATOR"
  arpo.initial_rollouts="$INITIAL_ROLLOUTS"
  arpo.branch_factor="$BRANCH_FACTOR"
  arpo.base_probability="$BASE_PROBABILITY"
  arpo.entropy_weight="$ENTROPY_WEIGHT"
  arpo.max_tool_calls="$MAX_TOOL_CALLS"
)

# verl makes a critic for ALGORITHM=ppo alone. It starts from the actor's weights and shares its batch sizes.
CRITIC=(
  critic.strategy=fsdp2
  critic.model.path="$(quoted "$MODEL_PATH")"
  critic.optim.lr="$CRITIC_LR"
  ++critic.ppo_infer_max_token_len_per_gpu="$PPO_MAX_TOKEN_LEN_PER_GPU" # verl 0.9.1 takes it for updates too
  critic.fsdp.model_dtype="$MODEL_DTYPE"
  critic.fsdp.offload_policy="$OFFLOAD"
)

# F1 of the answer, 0.1 more for the use of both tools, -1 for a broken format: the paper's equation 8.
REWARD=(
  reward.custom_reward_function.path=pkg://arpo_verl.reward
)

TRAINER=(
  trainer.nnodes="$NNODES"
  trainer.n_gpus_per_node="$NGPUS_PER_NODE"
  trainer.total_epochs="$TOTAL_EPOCHS"
  trainer.total_training_steps="$TOTAL_STEPS"
  trainer.save_freq="$SAVE_FREQ"
  trainer.test_freq="$TEST_FREQ"
  trainer.logger="$LOGGER"
  trainer.project_name=arpo
  trainer.experiment_name="$(quoted "$EXPERIMENT_NAME")"
  trainer.default_local_dir="$(quoted "$OUTPUT/checkpoints")"
  trainer.rollout_data_dir="$(quoted "$OUTPUT/rollouts")"
  trainer.validation_data_dir="$(quoted "$OUTPUT/validation")"
  hydra.run.dir="$(quoted "$OUTPUT/hydra")"
)

OVERRIDES=(
  "${MACHINE[@]}" "${DATA[@]}" "${MODEL[@]}" "${ACTOR[@]}" "${ROLLOUT[@]}" "${ARPO[@]}" "${CRITIC[@]}" "${REWARD[@]}"
  "${TRAINER[@]}" "$@"
)
if declare -F prepare > /dev/null; then prepare "${OVERRIDES[@]}"; fi
exec "$PYTHON" -m verl.trainer.main_ppo --config-path pkg://arpo_verl.config --config-name arpo_trainer "${OVERRIDES[@]}"
