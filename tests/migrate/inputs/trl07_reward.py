# TRL 0.7; runs
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig, RewardTrainer

model = AutoModelForSequenceClassification.from_pretrained("model", num_labels=1)
trainer = RewardTrainer(
    model=model,
    tokenizer=AutoTokenizer.from_pretrained("model"),
    args=RewardConfig(output_dir="out", max_length=128, evaluation_strategy="no", max_steps=2, no_cuda=True),
    train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"),
)
trainer.train()
