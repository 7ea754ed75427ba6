"""DPO's loss and accuracy before its first step, for every kind of policy, origin and reference: ln 2 and one half.

    python -m benchmarks.step_zero                       # the whole table, some minutes of CPU
    python -m benchmarks.step_zero --kinds full dora     # some of its rows

A policy is its reference before anything is learnt, so the loss of every pair is ln 2 and each margin is 0, which
counts one half. Each line trains a random Llama of two layers on twelve pairs: fresh; carrying an adapter that is not
the identity, as an object and from its folder; merged; and in a second round. The columns give the evaluation before
training and the first step, with the reference run live and with its log-probs precomputed.

What cannot hold: on 8-bit layers with a threshold (LLM.int8's is 6) a row depends on the rest of its batch, wherever an
activation reaches it, so that log-probs that were precomputed in other batches are others. The last kind shows by how
much; it is warned of in training, and `llm_int8_threshold=0.0` is exact.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
from datasets import Dataset
from datasets.utils import disable_progress_bars
from peft import LoraConfig, PeftModel
from rich import box
from rich.console import Console
from rich.table import Table
from transformers import BitsAndBytesConfig, LlamaConfig, LlamaForCausalLM, PrinterCallback
from transformers.utils import logging as transformers_logging

from prefopt import DPOConfig, DPOTrainer
from prefopt.models import load_policy, merge_adapter
from prefopt.models.new_adapter import add_adapter
from prefopt.testbed.model import build_tokenizer

VOCAB = 1000
EXACT_8_BIT = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=0.0)
ALIKE = {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True}
TOKENS = {"trainable_token_indices": [5, 6, 7, 8, 9, 10]}


class Kind(NamedTuple):
    adapter: dict[str, Any] | None
    """Of a `LoraConfig`; None trains the model in full."""
    tied: bool = False
    quantised: Any = None
    biased: bool = False
    outliers: bool = False
    """Activations that reach LLM.int8's threshold, as large models have them."""


KINDS = {
    "full": Kind(None),
    "full, tied": Kind(None, tied=True),
    "lora": Kind({}),
    "lora, all linear layers": Kind({"target_modules": "all-linear"}),
    "lora, head": Kind({"target_modules": ["q_proj", "lm_head"]}),
    "lora, biases": Kind({"bias": "all"}, biased=True),
    "lora, embeddings in full": Kind({"modules_to_save": ["embed_tokens"]}, tied=True),
    "dora": Kind({"use_dora": True}),
    "tied, head": Kind({"target_modules": ["q_proj", "lm_head"]}, tied=True),
    "tied, both alike": Kind(ALIKE, tied=True),
    "tied, in full alike": Kind({"modules_to_save": ["embed_tokens"], "ensure_weight_tying": True}, tied=True),
    "tokens": Kind(TOKENS),
    "tokens, tied": Kind(TOKENS, tied=True),
    "4-bit": Kind({}, quantised=BitsAndBytesConfig(load_in_4bit=True)),
    "4-bit, tied alike": Kind(ALIKE, tied=True, quantised=BitsAndBytesConfig(load_in_4bit=True)),
    "8-bit": Kind({}, quantised=EXACT_8_BIT),
    "8-bit, biases": Kind({"bias": "all"}, quantised=EXACT_8_BIT, biased=True),
}
INEXACT = {"8-bit, threshold 6": Kind({}, quantised=BitsAndBytesConfig(load_in_8bit=True), outliers=True)}
ORIGINS = ("fresh", "carried", "folder", "merged", "second round")


def combinations(kinds: Any = tuple(KINDS)) -> Iterator[tuple[str, str]]:
    """Kinds and origins that there are: a model without an adapter carries none."""
    for name in kinds:
        for origin in ORIGINS:
            if ({**KINDS, **INEXACT}[name].adapter is not None) or origin in ("fresh", "second round"):
                yield name, origin


class Found(NamedTuple):
    """Losses and accuracies of the evaluation before training and of the first step, and the loss after training."""

    evaluated: float
    first: float
    accuracies: tuple[float, float]
    after: float

    def __str__(self) -> str:
        deviations = " / ".join(f"{loss - math.log(2):+.0e}" for loss in (self.evaluated, self.first))
        return f"{deviations}, {self.accuracies[0]:g} / {self.accuracies[1]:g}"


def pairs(count: int = 12, seed: int = 0) -> Dataset:
    """Encoded pairs of random tokens, of very different lengths."""
    chance = random.Random(seed)

    def ids(low: int, high: int) -> list[int]:
        return [chance.randrange(4, VOCAB) for _ in range(chance.randint(low, high))]

    return Dataset.from_list(
        [{"prompt_ids": ids(1, 12), "response_ids": [[*ids(0, 14), 1] for _ in range(2)]} for _ in range(count)]
    )


class Maker:
    """Makes policies of one kind, from one base on disk, and trainers of them."""

    def __init__(self, kind: Kind, folder: Path, tokenizer: Any, **args: Any):
        self.kind, self.folder, self.tokenizer, self.args = kind, folder, tokenizer, args
        self.base = str(folder / "base")
        torch.manual_seed(0)
        config = LlamaConfig(
            vocab_size=VOCAB,
            hidden_size=64,  # 4-bit blocks hold 64 weights
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=2,
            max_position_embeddings=256,
            initializer_range=0.2,
            tie_word_embeddings=kind.tied,
            attention_bias=kind.biased,
            pad_token_id=0,
            bos_token_id=None,
            eos_token_id=1,
        )
        model = LlamaForCausalLM(config)
        for layer in model.model.layers if kind.outliers else ():
            layer.input_layernorm.weight.data[::16] *= 8
        model.save_pretrained(self.base)

    def lora(self) -> LoraConfig | None:
        if self.kind.adapter is None:
            return None
        usual = {"r": 4, "target_modules": ["q_proj", "v_proj"], "task_type": "CAUSAL_LM"}
        return LoraConfig(**usual | self.kind.adapter)

    def fresh(self) -> Any:
        return load_policy(self.base, quantization_config=self.kind.quantised)

    def carried(self) -> PeftModel:
        """An adapter that is not the identity."""
        model = add_adapter(self.fresh(), self.lora(), gradient_checkpointing=False)  # type: ignore[arg-type]
        torch.manual_seed(1)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter) * 0.1)
        return model

    def trainer(self, model: Any, peft_config: Any = None) -> DPOTrainer:
        given: dict[str, Any] = {
            "max_steps": 3,
            "learning_rate": 1e-2,
            "per_device_train_batch_size": 6,
            "lr_scheduler_type": "constant",
            "logging_steps": 1,
            "use_cpu": True,
            "bf16": False,
            "gradient_checkpointing": False,
            "report_to": [],
            "disable_tqdm": True,
            "save_strategy": "no",
            "overwrite_output_dir": True,
        }
        trainer = DPOTrainer(
            model,
            args=DPOConfig(output_dir=str(self.folder / "run"), **given | self.args),
            train_dataset=pairs(),
            eval_dataset=pairs(),
            processing_class=self.tokenizer,
            peft_config=peft_config,
        )
        trainer.remove_callback(PrinterCallback)
        return trainer

    def start(self, origin: str) -> DPOTrainer:
        if origin == "fresh":
            return self.trainer(self.fresh(), self.lora())
        if origin == "carried":
            return self.trainer(self.carried())
        if origin == "folder":
            self.carried().save_pretrained(self.folder / "adapter")
            return self.trainer(load_policy(str(self.folder / "adapter"), quantization_config=self.kind.quantised))
        if origin == "merged":
            return self.trainer(merge_adapter(self.carried()))
        first = self.trainer(self.fresh(), self.lora())
        first.train()
        return self.trainer(first.model)


def measured(kind: Kind, origin: str, folder: Path, tokenizer: Any, **args: Any) -> Found:
    """What a run of this kind and origin gives before its first step, and that it learns after it."""
    trainer = Maker(kind, folder, tokenizer, **args).start(origin)
    before = trainer.evaluate()
    trainer.train()
    first = next(log for log in trainer.state.log_history if "loss" in log)
    accuracies = before["eval_rewards/accuracies"], first["rewards/accuracies"]
    return Found(before["eval_loss"], first["loss"], accuracies, trainer.evaluate()["eval_loss"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    every = {**KINDS, **INEXACT}
    parser.add_argument("--kinds", nargs="+", choices=every, default=list(every))
    parser.add_argument("--origins", nargs="+", choices=ORIGINS, default=list(ORIGINS))
    args = parser.parse_args()
    logging.getLogger("prefopt").setLevel(logging.ERROR)
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    disable_progress_bars()
    warnings.simplefilter("ignore")
    table = Table(
        title="Loss less ln 2, and accuracy: evaluated before training / of the first step",
        box=box.SIMPLE_HEAD,
        padding=0,
    )
    for name in ("kind", "origin", "live", "precomputed"):
        table.add_column(name, overflow="fold")
    tokenizer = build_tokenizer()
    for name, origin in combinations(args.kinds):
        if origin in args.origins:
            row = [str(_in_a_folder(every[name], origin, tokenizer, how)) for how in (False, True)]
            table.add_row(name, origin, *row)
            print(name, origin, *row, sep=" | ", file=sys.stderr, flush=True)
    Console().print(table)


def _in_a_folder(kind: Kind, origin: str, tokenizer: Any, precomputed: bool) -> Found:
    """Where nothing is known of earlier runs, log-probs of references neither."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["PREFOPT_CACHE"] = folder
        how = {"precompute_ref_log_probs": True, "precompute_ref_batch_size": 5} if precomputed else {}
        return measured(kind, origin, Path(folder), tokenizer, **how)


if __name__ == "__main__":
    main()
