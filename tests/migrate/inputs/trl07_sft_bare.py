# TRL 0.7; runs
from datasets import load_dataset
from trl import SFTTrainer

trainer = SFTTrainer(
    "model", train_dataset=load_dataset("json", data_files="sft.jsonl", split="train"), max_seq_length=96
)
assert trainer.args.max_length == 96
