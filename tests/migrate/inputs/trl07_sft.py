# TRL 0.7; runs
from datasets import Dataset
from transformers import TrainingArguments
from trl import SFTTrainer

rows = Dataset.from_list([{"text": "one two three"}] * 8)
trainer = SFTTrainer(
    "model",
    train_dataset=rows,
    dataset_text_field="text",
    max_seq_length=64,
    packing=True,
    num_of_sequences=100,
    args=TrainingArguments(output_dir="out", max_steps=2, learning_rate=1e-4),
)
trainer.train()
assert trainer.args.max_length == 64 and trainer.args.learning_rate == 1e-4
