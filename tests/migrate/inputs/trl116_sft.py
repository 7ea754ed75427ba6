# TRL 1.16; runs
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

trainer = SFTTrainer(
    model="model",
    args=SFTConfig(output_dir="out", assistant_only_loss=True, packing_strategy="bfd", max_steps=2),
    train_dataset=load_dataset("json", data_files="sft.jsonl", split="train"),
)
trainer.train()
