"""What others call our flags and the values of our choices, for "did you mean …?".

flags_meant("lr")      ["optim.peak"]
"""

import functools
import re

# A flag (the first of several that the verb has), then what others call it.
_FLAGS = """
optim.peak: lr learning_rate max_lr base_lr peak_lr initial_lr rate
task.epochs steps: epochs num_epochs num_train_epochs n_epochs max_epochs train_epochs
steps task.epochs: max_steps train_steps num_train_steps num_steps n_steps total_steps
    iterations max_iters num_iterations updates total_num_update
batch: batch_size bs train_batch_size per_device_train_batch_size global_batch_size
    per_device_eval_batch_size eval_batch_size micro_batch_size num_rows
length: max_seq_length max_seq_len seq_len seq_length sequence_length max_len block_size
    context_length max_length n_ctx max_position_embeddings
workdir out: output_dir out_dir output output_path save_dir run_dir model_dir log_dir
    logdir checkpoint_dir ckpt_dir run o
data text: train_file train_data dataset input input_file file corpus_file train
    train_path data_dir data_path validation_file files dataset_name
dev holdout: dev_file eval_file valid validation val dev_data test_size
    validation_split eval_fraction
init directory: model_name_or_path pretrained pretrained_model checkpoint ckpt load
    from_pretrained base_model resume_from weights init_checkpoint
accumulate: gradient_accumulation_steps grad_accum accumulation_steps grad_acc_steps
precision: fp16 bf16 mixed_precision amp dtype half use_amp
remat: gradient_checkpointing checkpoint_activations activation_checkpointing
optim.warmup: warmup_steps warmup_ratio num_warmup_steps warmup_proportion warmup_iters
optim.name: optimizer optimiser optim
optim.decay: lr_scheduler_type scheduler lr_decay schedule lr_scheduler
optim.weight_decay: wd decay_rate l2
optim.clip: max_grad_norm grad_clip clip_grad_norm gradient_clip
optim.b1: adam_beta1 beta1
optim.b2: adam_beta2 beta2
optim.eps: adam_epsilon epsilon
model.num_layers: n_layer n_layers num_hidden_layers layers depth
model.num_heads: n_head n_heads num_attention_heads heads
model.d_model: n_embd hidden_size embed_dim hidden dim embedding_size width
model.d_ff: intermediate_size ffn_dim n_inner mlp_dim
model.vocab_size: vocabulary_size vocabulary n_vocab
model.dropout task.dropout: dropout_rate hidden_dropout_prob dropout
data.mask_rate: mlm_probability masked_lm_prob mask_prob mask_probability
predictions: max_predictions_per_seq max_predictions
text.lowercase: do_lower_case lowercase uncased lower
tokenizer: vocab vocab_file tokenizer_name tokenizer_file tokenizer_path
save_every: save_steps save_interval checkpoint_every save_freq
eval_every: eval_steps eval_interval evaluation_steps validate_every eval_freq
log.every: logging_steps log_interval log_every log_freq
keep: save_total_limit max_to_keep
seeds seed: random_seed random_state num_seeds
mesh.data: num_gpus gpus devices n_gpu num_devices tpu_cores world_size
hosts: num_hosts nodes num_nodes nnodes
processes: workers num_workers num_proc jobs
max_tokens: max_new_tokens num_tokens length max_length n_tokens
samples: num_samples num_return_sequences n
beams: num_beams beam_size beam
temperature: temp t
prompt: text input_text
top_k: k topk
top_p: p topp nucleus
task.text: text_column sentence1_key text_field
task.label: label_column label_field target labels
task.layer_decay: layerwise_lr_decay llrd
task.patience: early_stopping early_stopping_patience
pooling: pool
layers: layer
fallback: ignore_errors
verify: check
to: format
"""

# A value of a choice, by what others call it.
VALUES = {
    "huggingface": "hf",
    "transformers": "hf",
    "pytorch": "hf",
    "safetensors": "hf",
    "llama.cpp": "gguf",
    "onnxruntime": "onnx",
    "allennlp": "elmo",
    "bf16": "bfloat16",
    "fp16": "bfloat16",
    "fp32": "float32",
    "adam": "adamw",
}

# What others have a flag for and jaxlm has not, with what takes its place.
_SAID = """
all devices of this host are used; JAX_PLATFORMS=cpu in front of the command chooses:
    device devices_type cuda gpu cpu tpu use_gpu use_cuda use_cpu no_cuda accelerator
the same command resumes a run, another --workdir begins a new one:
    resume resume_from_checkpoint resume_training continue continue_training restart
    overwrite overwrite_output_dir overwrite_cache force
these are verbs, jaxlm finetune, evaluate and predict:
    do_train do_eval do_predict evaluate_during_training predict_with_generate
the first word names it, as the usage shows:
    model model_name model_type arch architecture config config_name config_file recipe
every host runs the same command and finds the others, see jaxlm help machines:
    local_rank rank node_rank master_addr master_port nproc_per_node ddp deepspeed
"""


def said_of(name: str) -> str:
    """What takes the place of a flag that others have; "" if it is not known."""
    for said, names in re.findall(r"^(\S.*):\n((?: +.*\n)+)", _SAID, re.MULTILINE):
        if name in names.split():
            return said
    return ""


def flags_meant(name: str) -> list[str]:
    """Our flags for what others call a name."""
    return _others().get(name, [])


@functools.cache
def _others() -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in re.sub(r"\n +", " ", _FLAGS).strip().splitlines():
        flags, _, names = line.partition(":")
        for name in names.split():
            found.setdefault(name, []).extend(flags.split())
    return found
