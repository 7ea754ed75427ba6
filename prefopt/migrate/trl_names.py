"""What stands in prefopt for the names of TRL, from its version 0.7 to today's, and what has no place in it."""

from __future__ import annotations

from collections.abc import Mapping

SAME = frozenset(
    (
        *("DPOConfig", "DPOTrainer", "KTOConfig", "KTOTrainer", "PPOConfig", "PPOTrainer", "RewardConfig"),
        *("RewardTrainer", "SFTConfig", "SFTTrainer", "ModelConfig", "ScriptArguments", "TrlParser"),
        *("DatasetMixtureConfig", "get_dataset", "get_peft_config", "get_quantization_config"),
    )
)
"""Names of both."""
OTHER: Mapping[str, str] = {
    "BCOConfig": "KTOConfig",
    "BCOTrainer": "KTOTrainer",
    "CPOConfig": "DPOConfig",
    "CPOTrainer": "DPOTrainer",
    "DPOScriptArguments": "ScriptArguments",
    "ORPOConfig": "DPOConfig",
    "ORPOTrainer": "DPOTrainer",
    "PPOv2Config": "PPOConfig",
    "PPOv2Trainer": "PPOTrainer",
    "RewardScriptArguments": "ScriptArguments",
    "SFTScriptArguments": "ScriptArguments",
}
"""TRL's name -> the one that does the same here."""
CONFIG_OF: Mapping[str, str] = {
    name: f"{name.removesuffix('Trainer')}Config"
    for name in ("DPOTrainer", "KTOTrainer", "PPOTrainer", "RewardTrainer")
} | {"SFTTrainer": "SFTConfig"}
LOSSES: Mapping[str, str] = {"ORPOConfig": "orpo", "CPOConfig": "cpo", "BCOConfig": "bco"}
"""TRL's config -> the loss_type that it stands for."""
_NOT_HERE = "is not here: `prefopt --help` lists the methods; PPO-max and rejection sampling learn from a scorer"
GONE: Mapping[str, str] = {
    "AlignPropTrainer": _NOT_HERE,
    "AutoModelForCausalLMWithValueHead": "goes: PPOTrainer makes the critic itself; load an AutoModelForCausalLM",
    "AutoModelForSeq2SeqLMWithValueHead": "goes: causal models alone are trained",
    "ConstantLengthDataset": "goes: rows always lie without padding; give the rows themselves",
    "DataCollatorForCompletionOnlyLM": "goes: answers alone are trained on; give turns, or prompt and completion",
    "GRPOConfig": _NOT_HERE,
    "GRPOTrainer": _NOT_HERE,
    "LogCompletionsCallback": "goes: `prefopt chat` and `prefopt evaluate` show what a checkpoint says",
    "NashMDTrainer": _NOT_HERE,
    "OnlineDPOConfig": _NOT_HERE,
    "OnlineDPOTrainer": _NOT_HERE,
    "RLOOConfig": _NOT_HERE,
    "RLOOTrainer": _NOT_HERE,
    "RichProgressCallback": "goes: a log is written at the terminal's width anyway",
    "apply_chat_template": "goes: the trainer applies the template to rows of turns",
    "clone_chat_template": "goes: name a template by chat_template_path in the config",
    "create_reference_model": "goes: leave ref_model out, and the reference is the model as training starts",
    "extract_prompt": "goes: the prompt that two answers share is found at turns, by load_preferences",
    "get_kbit_device_map": "goes: leave device_map out, a process uses its own device",
    "is_conversational": "goes: rows are recognised by themselves",
    "maybe_apply_chat_template": "goes: the trainer applies the template to rows of turns",
    "maybe_extract_prompt": "goes: the prompt that two answers share is found at turns, by load_preferences",
    "setup_chat_format": "goes: name a template by chat_template_path in the config, unless the model has one",
}
"""TRL's name -> what to do without it."""
TRAINER_RENAMED: Mapping[str, str] = {
    "tokenizer": "processing_class",
    "policy": "model",
    "ref_policy": "ref_model",
    "config": "args",
    "max_seq_length": "max_length",
}
"""Argument of a trainer -> its name today."""
TRAINER_DROPPED: Mapping[str, str] = {
    "force_use_ref_model": "ref_model is used where it is given",
    "is_encoder_decoder": "causal models alone are trained",
    "label_pad_token_id": "padding and labels are prefopt's own",
    "padding_value": "padding and labels are prefopt's own",
    "model_adapter_name": "the adapter that a model carries is copied for the reference",
    "ref_adapter_name": "the adapter that a model carries is copied for the reference",
    "generate_during_eval": "`prefopt evaluate` lets a checkpoint generate",
    "num_of_sequences": "rows always lie without padding",
    "chars_per_token": "rows always lie without padding",
    "dataset_batch_size": "rows are encoded in batches of their own",
    "infinite": "rows always lie without padding",
    "eval_packing": "rows always lie without padding",
    "max_target_length": "max_length limits prompt and response together",
}
"""Argument of a trainer that can go -> why."""
