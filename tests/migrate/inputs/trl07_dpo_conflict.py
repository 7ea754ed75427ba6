# TRL 0.7; to do 11
from dataclasses import dataclass, field

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, HfArgumentParser, TrainingArguments
from trl import DPOTrainer


@dataclass
class Options:
    beta: float = field(default=0.3)
    model: str = field(default="model")


options, training_args = HfArgumentParser((Options, TrainingArguments)).parse_args_into_dataclasses(
    ["--output_dir", "out", "--max_steps", "2", "--beta", "0.4"]
)
model = AutoModelForCausalLM.from_pretrained(options.model)
dpo = DPOTrainer(
    model,
    args=training_args,
    beta=options.beta,
    train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"),
    tokenizer=AutoTokenizer.from_pretrained(options.model),
    label_pad_token_id=-100,
)
dpo.train()
