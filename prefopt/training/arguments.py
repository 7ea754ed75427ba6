"""What a training program is told about its model and its data, under TRL's names. Knows no method and no trainer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..utils.options import option

if TYPE_CHECKING:
    import datasets
    from peft import LoraConfig
    from transformers import BitsAndBytesConfig


DTYPES = ("auto", "bfloat16", "float16", "float32")


@dataclass
class LoadingArguments:
    """Which model, and in which precision."""

    model_name_or_path: str | None = option(None, "Model to start from: a folder, an adapter's folder or a hub id.")
    model_revision: str = option("main", "Branch, tag or commit of a model on the hub.")
    dtype: str | None = option(
        "float32",
        "Data type of the weights, and of the arithmetic of a quantised model.",
        choices=list(DTYPES),
    )
    attn_implementation: str | None = option(None, "Attention kernel, such as sdpa or flash_attention_2.")
    load_in_8bit: bool = option(False, "Load the model in 8 bits; training it needs an adapter.")
    load_in_4bit: bool = option(
        False, "Load the model in 4 bits; training it needs an adapter (QLoRA, arXiv:2305.14314)."
    )
    bnb_4bit_quant_type: str = option("nf4", "Kind of 4-bit number.", choices=["fp4", "nf4"])
    use_bnb_nested_quant: bool = option(False, "Quantise the 4-bit constants as well, which saves 0.4 bits a weight.")
    bnb_4bit_quant_storage: str | None = option(None, "Data type that 4-bit weights are stored in, for FSDP.")

    def __post_init__(self) -> None:
        if self.load_in_8bit and self.load_in_4bit:
            raise ValueError("load_in_8bit and load_in_4bit: a model is loaded in one of them, choose one")


@dataclass
class ModelConfig(LoadingArguments):
    """Which model, in which precision, with which adapter."""

    use_peft: bool = option(False, "Train a LoRA adapter and leave the model's weights as they are.")
    lora_r: int = option(16, "Rank of the adapter.")
    lora_alpha: int = option(32, "Scale of the adapter: its output is multiplied by lora_alpha / lora_r.")
    lora_dropout: float = option(
        0.05, "Dropout before the adapter; prefopt sets it to zero unless disable_dropout is off."
    )
    lora_target_modules: list[str] | None = option(
        None, "Modules that get an adapter, or all-linear; by default what PEFT knows for this architecture."
    )
    lora_target_parameters: list[str] | None = option(None, "Parameters, rather than modules, that get an adapter.")
    lora_modules_to_save: list[str] | None = option(
        None, "Modules to train in full beside the adapter, such as embed_tokens lm_head."
    )
    lora_task_type: str | None = option(None, "PEFT's task type; by default the one that fits what is trained.")
    use_rslora: bool = option(False, "Scale by lora_alpha / sqrt(lora_r) instead (arXiv:2312.03732).")
    use_dora: bool = option(False, "Weight-decomposed LoRA (arXiv:2402.09353).")

    def __post_init__(self) -> None:
        super().__post_init__()
        # PEFT reads a string as a pattern, or as all-linear; the command line can only give it inside a list.
        if isinstance(self.lora_target_modules, list) and len(self.lora_target_modules) == 1:
            self.lora_target_modules = self.lora_target_modules[0]  # type: ignore[assignment]


@dataclass
class ScorerArguments:
    """What scores the responses sampled from a policy."""

    scorer: str | dict | None = option(
        None,
        "What scores the responses: a reward model (a folder, an adapter's folder or a hub id), the URL of a service "
        "such as vLLM's http://host:8000/pooling (or JSON with its url, model, key_env, ...), or a function of "
        "(prompts, responses) as module:name, found from the current folder too.",
    )
    scorer_dtype: str = option("float32", "Data type of a reward model's weights.", choices=list(DTYPES))


@dataclass
class RowsArguments:
    """Which rows to read."""

    dataset_name: str | None = option(None, "The data: a file, a folder or a hub id.")
    dataset_config: str | None = option(None, "Configuration of a dataset on the hub.")
    dataset_train_split: str = option("train", "Split to read, where the data has splits.")
    adapter: str = option(
        "auto",
        "Format of the rows; by default recognised. A name that is known, or module:name of your own.",
    )
    columns: list[str] | None = option(
        None,
        "Columns under names of your own, as NAME=COLUMN: prompt=question chosen=good rejected=bad. The others are "
        "left out.",
    )
    ties: str = option("keep", "What becomes of pairs whose scores are the same or reversed: keep, or drop.")


@dataclass
class ScriptArguments(RowsArguments):
    """Which rows to train on, and which to evaluate on."""

    dataset_test_split: str = option("test", "Split to evaluate on, where the data has splits.")
    eval_dataset: str | None = option(None, "Evaluation data, when it is not a split of the training data.")
    eval_ratio: float = option(0.0, "Hold out this share of the prompts, with all their rows, for evaluation.")
    dataset_streaming: bool = option(False, "Accepted for compatibility, off only: rows are encoded before training.")
    ignore_bias_buffers: bool = option(False, "Accepted for compatibility: buffers need no exception here.")

    def __post_init__(self) -> None:
        if self.dataset_streaming:
            raise ValueError("dataset_streaming is not offered: rows are read and encoded before training starts")
        if not 0 <= self.eval_ratio < 1:
            raise ValueError(f"eval_ratio={self.eval_ratio} must lie in [0, 1)")
        if self.eval_ratio and self.eval_dataset:
            raise ValueError("eval_dataset and eval_ratio: rows are evaluated on one of them, choose one")


@dataclass
class DatasetConfig:
    """One source of a mixture, as `datasets.load_dataset` takes it."""

    path: str
    name: str | None = None
    data_dir: str | None = None
    data_files: str | list[str] | dict[str, str] | None = None
    split: str = "train"
    columns: list[str] | None = None


@dataclass
class DatasetMixtureConfig:
    """Several datasets, one after the other; written as a list in a YAML file."""

    datasets: list[DatasetConfig] = option(list, "Sources to put together, each with a path and what else it needs.")
    streaming: bool = option(False, "Accepted for compatibility, off only: rows are encoded before training.")
    test_split_size: float | None = option(None, "Hold out this share of the rows as the split `test`.")

    def __post_init__(self) -> None:
        self.datasets = [part if isinstance(part, DatasetConfig) else DatasetConfig(**part) for part in self.datasets]
        if self.streaming:
            raise ValueError("streaming is not offered: rows are read and encoded before training starts")


def get_dataset(mixture: DatasetMixtureConfig) -> datasets.DatasetDict:
    """Put the datasets of a mixture together, as TRL's scripts ask for it.

    Args:
        mixture: the datasets, one after the other, and the share of rows for a test set.

    Returns:
        The rows as they come, in the split `train` and, if asked for, `test`.

    Raises:
        ValueError: it names no dataset.
    """
    import datasets

    if not mixture.datasets:
        raise ValueError("the mixture names no dataset: give it a list `datasets`, each with a `path`")
    rows = datasets.concatenate_datasets([_raw(part) for part in mixture.datasets])
    if mixture.test_split_size is None:
        return datasets.DatasetDict({"train": rows})
    return rows.train_test_split(test_size=mixture.test_split_size)


def _raw(part: DatasetConfig) -> datasets.Dataset:
    import datasets

    rows = datasets.load_dataset(
        part.path, name=part.name, data_dir=part.data_dir, data_files=part.data_files, split=part.split
    )
    return rows.select_columns(part.columns) if part.columns else rows


def get_peft_config(model_args: ModelConfig, task_type: str = "CAUSAL_LM") -> LoraConfig | None:
    """The LoRA adapter that the arguments ask for, None without `use_peft`.

    Args:
        model_args: the options `lora_...`, `use_rslora` and `use_dora`.
        task_type: PEFT's, where the arguments name none: "CAUSAL_LM" of policies, "SEQ_CLS" of reward models.
    """
    if not model_args.use_peft:
        return None
    from peft import LoraConfig

    return LoraConfig(
        task_type=model_args.lora_task_type or task_type,
        r=model_args.lora_r,
        lora_alpha=model_args.lora_alpha,
        lora_dropout=model_args.lora_dropout,
        target_modules=model_args.lora_target_modules,
        target_parameters=model_args.lora_target_parameters,
        modules_to_save=model_args.lora_modules_to_save,
        use_rslora=model_args.use_rslora,
        use_dora=model_args.use_dora,
    )


def loading(arguments: LoadingArguments) -> dict[str, Any]:
    """What the arguments ask of `from_pretrained`."""
    kwargs: dict[str, Any] = {"dtype": arguments.dtype}
    if arguments.model_revision != "main":
        kwargs["revision"] = arguments.model_revision
    if arguments.attn_implementation:
        kwargs["attn_implementation"] = arguments.attn_implementation
    return kwargs


def get_quantization_config(model_args: LoadingArguments) -> BitsAndBytesConfig | None:
    """How the arguments ask for the model to be quantised, None without `load_in_4bit` and `load_in_8bit`.

    Args:
        model_args: the options `load_in_...` and `bnb_4bit_...`.
    """
    from transformers import BitsAndBytesConfig

    if model_args.load_in_8bit:
        return BitsAndBytesConfig(load_in_8bit=True)
    if not model_args.load_in_4bit:
        return None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        # "auto" is no data type to compute in: the one that quantised models are made for stands in.
        bnb_4bit_compute_dtype="bfloat16" if model_args.dtype in (None, "auto") else model_args.dtype,
        bnb_4bit_quant_type=model_args.bnb_4bit_quant_type,
        bnb_4bit_use_double_quant=model_args.use_bnb_nested_quant,
        bnb_4bit_quant_storage=model_args.bnb_4bit_quant_storage,
    )
