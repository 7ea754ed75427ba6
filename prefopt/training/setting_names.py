"""What settings are called elsewhere, for the hint after a wrong name on a command line, in a file or in a plan."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields

from ..utils.names import did_you_mean
from .older_settings import DROPPED, RENAMED
from .trl_settings import SETTINGS

ALIASES: dict[str, str] = {
    **RENAMED,
    # The model.
    "model": "model_name_or_path",
    "model_id": "model_name_or_path",
    "model_name": "model_name_or_path",
    "model_path": "model_name_or_path",
    "base_model": "model_name_or_path",
    "policy": "model_name_or_path",
    "pretrained_model_name_or_path": "model_name_or_path",
    "revision": "model_revision",
    "precision": "dtype",
    "attn": "attn_implementation",
    "flash_attn": "attn_implementation",
    "use_flash_attn": "attn_implementation",
    "4bit": "load_in_4bit",
    "8bit": "load_in_8bit",
    "qlora": "load_in_4bit",
    "lora": "use_peft",
    "use_lora": "use_peft",
    "peft": "use_peft",
    "lora_rank": "lora_r",
    "rank": "lora_r",
    "target_modules": "lora_target_modules",
    "chat_template": "chat_template_path",
    # The data.
    "data": "dataset_name",
    "data_path": "dataset_name",
    "dataset": "dataset_name",
    "dataset_path": "dataset_name",
    "train_data": "dataset_name",
    "train_dataset": "dataset_name",
    "train_file": "dataset_name",
    "split": "dataset_train_split",
    "train_split": "dataset_train_split",
    "test_split": "dataset_test_split",
    "eval_split": "dataset_test_split",
    "eval_data": "eval_dataset",
    "eval_dataset_name": "eval_dataset",
    "eval_file": "eval_dataset",
    "test_data": "eval_dataset",
    "test_dataset": "eval_dataset",
    "test_file": "eval_dataset",
    "val_data": "eval_dataset",
    "validation_data": "eval_dataset",
    "validation_file": "eval_dataset",
    "test_size": "eval_ratio",
    "val_ratio": "eval_ratio",
    "validation_ratio": "eval_ratio",
    "val_size": "eval_ratio",
    "format": "adapter",
    "max_len": "max_length",
    "max_seq_len": "max_length",
    "model_max_length": "max_length",
    "seq_len": "max_length",
    "cutoff_len": "max_length",
    # Training.
    "lr": "learning_rate",
    "batch": "per_device_train_batch_size",
    "batch_size": "per_device_train_batch_size",
    "micro_batch_size": "per_device_train_batch_size",
    "train_batch_size": "per_device_train_batch_size",
    "eval_batch_size": "per_device_eval_batch_size",
    "accumulation_steps": "gradient_accumulation_steps",
    "grad_accum": "gradient_accumulation_steps",
    "grad_accumulation": "gradient_accumulation_steps",
    "epochs": "num_train_epochs",
    "num_epochs": "num_train_epochs",
    "n_epochs": "num_train_epochs",
    "train_epochs": "num_train_epochs",
    "steps": "max_steps",
    "num_steps": "max_steps",
    "train_steps": "max_steps",
    "optimizer": "optim",
    "scheduler": "lr_scheduler_type",
    "lr_scheduler": "lr_scheduler_type",
    "warmup": "warmup_steps",
    "wd": "weight_decay",
    "clip": "max_grad_norm",
    "grad_clip": "max_grad_norm",
    "gradient_clipping": "max_grad_norm",
    "random_seed": "seed",
    "loss": "loss_type",
    # Where it goes, and whence it goes on.
    "out": "output_dir",
    "output": "output_dir",
    "output_path": "output_dir",
    "save_dir": "output_dir",
    "save_path": "output_dir",
    "checkpoint": "resume_from_checkpoint",
    "resume": "resume_from_checkpoint",
    "save_every": "save_steps",
    "save_freq": "save_steps",
    "logging": "report_to",
    "logger": "report_to",
    "wandb": "report_to",
    # Responses.
    "judge": "scorer",
    "reward": "scorer",
    "reward_model": "scorer",
    "reward_model_path": "scorer",
    "rm": "scorer",
    "best_of": "responses_per_prompt",
    "k": "responses_per_prompt",
    "n": "responses_per_prompt",
    "num_generations": "responses_per_prompt",
    "num_return_sequences": "responses_per_prompt",
    "num_samples": "responses_per_prompt",
    "max_tokens": "max_new_tokens",
    "stop": "stop_strings",
    "engine": "use_vllm",
    "vllm": "use_vllm",
    "vllm_url": "vllm_server_base_url",
    "vllm_base_url": "vllm_server_base_url",
    "vllm_max_model_len": "vllm_max_model_length",
    "max_model_len": "vllm_max_model_length",
    "gpu_memory_utilization": "vllm_gpu_memory_utilization",
    "tensor_parallel_size": "vllm_tensor_parallel_size",
    "kl_coeff": "kl_coef",
    "init_kl_coef": "kl_coef",
    "kl_penalty": "kl_coef",
}
"""Another name, with `_` for `-` -> the setting. It is a hint where that setting exists."""

_REFERENCE = (
    "the reference is the model that training starts from; in Python another one can be given, as ref_model of the "
    "trainer"
)
_URL = "a vLLM server is asked at its URL: use_vllm and vllm_server_base_url=http://HOST:PORT"
_NO_RATIO = "what vLLM samples here is scored and imitated or ranked, so that there is no ratio to correct"
_CLOSED = "vLLM loads the policy's folder anew each time, and is closed before anything trains: leave it out"
ELSEWHERE: dict[str, str] = {
    **dict.fromkeys(("vllm_server_host", "vllm_server_port"), _URL),
    **dict.fromkeys(("vllm_enable_sleep_mode", "vllm_group_port"), _CLOSED),
    **dict.fromkeys(
        (
            "vllm_importance_sampling_correction",
            "vllm_importance_sampling_mode",
            "vllm_importance_sampling_clip_max",
            "vllm_importance_sampling_clip_min",
            "vllm_importance_sampling_cap",
        ),
        _NO_RATIO,
    ),
    "vllm_server_timeout": "start the command when the server is up: it is asked at once",
    "vllm_model_impl": "vLLM chooses; in Python, VLLM(folder, model_impl=...) is a policy for sample and best_of_n",
    "vllm_structured_outputs_regex": "responses are sampled from the policy's own distribution: score their form",
    "ref_model": _REFERENCE,
    "ref_model_name_or_path": _REFERENCE,
    "ref_model_path": _REFERENCE,
    "reference": _REFERENCE,
    "reference_model": _REFERENCE,
    "gpus": "several GPUs are asked for by `torchrun --nproc_per_node 4 -m` before the command",
    "num_gpus": "several GPUs are asked for by `torchrun --nproc_per_node 4 -m` before the command",
    "device": "the GPU is found by itself; --use_cpu leaves it out",
    **{name: setting.instead for name, setting in SETTINGS.items()},
    **DROPPED,
}
"""Another name -> how to ask for what no setting is for."""


def meant(name: str, known: Iterable[str], prefix: str = "") -> str:
    """The end of a message about a name that no setting has; empty where nothing is known of it.

    Args:
        known: the settings that there are.
        prefix: stands before each name, such as `--`.
    """
    if elsewhere := ELSEWHERE.get(name.replace("-", "_").lower()):
        return f": {elsewhere}"
    near = did_you_mean(name, known, ALIASES, prefix=prefix)
    return f"; {near}" if near else ""


def check_known(config: type, given: Iterable[str]) -> None:
    """Refuse names that a config has no setting for.

    Raises:
        TypeError: there is one; the message says what was meant.
    """
    names = [field.name for field in fields(config) if field.init]  # type: ignore[arg-type]
    for name in given:
        if name not in names:
            raise TypeError(f"{config.__name__} has no setting {name!r}{meant(name, names)}")
