# TRL 0.16; runs
from datasets import load_dataset
from trl import SFTConfig, SFTTrainer

training_args = SFTConfig(
    output_dir="out",
    max_seq_length=96,
    packing=True,
    dataset_batch_size=10,
    group_by_length=True,
    max_steps=2,
    use_liger=True,
)
trainer = SFTTrainer(
    model="model",
    args=training_args,
    train_dataset=load_dataset("json", data_files="sft.jsonl", split="train"),
)
trainer.train()
assert trainer.args.max_length == 96
