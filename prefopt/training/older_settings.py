"""Settings of earlier versions of transformers and TRL that are gone: what they are called now, or why they can go."""

from __future__ import annotations

RENAMED: dict[str, str] = {
    # transformers 4.
    "adam_eps": "adam_epsilon",
    "evaluation_strategy": "eval_strategy",
    "fp16_backend": "fp16",
    "no_cuda": "use_cpu",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
    "warmup_ratio": "warmup_steps",
    # TRL.
    "log_with": "report_to",
    "max_seq_length": "max_length",
    "torch_dtype": "dtype",
}
"""Earlier name -> today's, which takes the same value."""

_COUNTED = "the padding and the labels are prefopt's own; leave it out"
_NAMED = "an adapter that the model carries is copied for the reference; leave it out"
_PROMPTS = "max_length limits prompt and response together; max_prompt_length is what a cut leaves of the prompt"
_GENERATED = "`prefopt evaluate` and `prefopt chat` let a checkpoint generate; leave it out"
_HARDWARE = "torch finds the device and the precision by itself; leave it out"
DROPPED: dict[str, str] = {
    # transformers 4.
    "adafactor": "ask for it by optim=adafactor",
    "dispatch_batches": "stands in accelerator_config now; leave it out",
    "fp16_opt_level": _HARDWARE,
    "fsdp_transformer_layer_cls_to_wrap": "stands in accelerate's config: see examples/accelerate/fsdp2.yaml",
    "group_by_length": "max_tokens_per_batch puts rows of similar length together",
    "half_precision_backend": _HARDWARE,
    "include_inputs_for_metrics": "compute_metrics receives log-probs and rewards; leave it out",
    "include_tokens_per_second": "the log has num_tokens; leave it out",
    "jit_mode_eval": _HARDWARE,
    "logging_dir": "tensorboard writes to `runs` in output_dir; another folder is named by TENSORBOARD_LOGGING_DIR",
    "past_index": "no such thing is trained here; leave it out",
    "push_to_hub_organization": "hub_model_id names both, as organization/name",
    "ray_scope": "it belongs to a search; leave it out",
    "save_safetensors": "weights are always saved as safetensors; leave it out",
    "split_batches": "stands in accelerator_config now; leave it out",
    "torchdynamo": "ask for it by torch_compile and torch_compile_backend",
    "tpu_num_cores": _HARDWARE,
    "use_ipex": _HARDWARE,
    "use_legacy_prediction_loop": "there is one loop; leave it out",
    "use_mps_device": _HARDWARE,
    # TRL.
    "base_model_attribute_name": "no Liger kernel is used; leave it out",
    "chars_per_token": "it belonged to packing, and rows always lie without padding; leave it out",
    "dataset_batch_size": "rows are encoded in batches of their own; leave it out",
    "ds3_gather_for_generation": "a policy in parts does not generate here: see docs/engines.md",
    "exp_name": "run_name names a run for trackers",
    "force_use_ref_model": "ref_model is used where it is given; leave it out",
    "generate_during_eval": _GENERATED,
    "is_encoder_decoder": "causal models alone are trained; leave it out",
    "label_pad_token_id": _COUNTED,
    "max_completion_length": _PROMPTS,
    "max_target_length": _PROMPTS,
    "model_adapter_name": _NAMED,
    "num_of_sequences": "it belonged to packing, and rows always lie without padding; leave it out",
    "padding_value": _COUNTED,
    "ref_adapter_name": _NAMED,
    "ref_model_init_kwargs": "load the reference and pass it as ref_model; by default it is the model as it was",
    "tools": "a column `tools` of the rows is given to the chat template",
    "use_liger": "no vocabulary-sized tensor is kept here either; leave it out",
    "use_liger_loss": "no vocabulary-sized tensor is kept here either; leave it out",
    "use_logits_to_keep": "log-probs are computed for response tokens only anyway; leave it out",
    # TRL's PPO.
    "adap_kl_ctrl": "an adaptive weight of the KL is asked for by target_kl",
    "horizon": "an adaptive weight of the KL is asked for by target_kl",
    "query_dataset": "the prompts are the trainer's train_dataset",
    "tracker_project_name": "a tracker's project is named in the environment, as by WANDB_PROJECT",
}
"""Earlier name -> what to do about it."""
