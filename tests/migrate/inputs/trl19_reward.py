# TRL 0.19; runs
from datasets import load_dataset
from transformers import AutoModelForSequenceClassification, AutoTokenizer
from trl import RewardConfig as Config
from trl import RewardTrainer

tokenizer = AutoTokenizer.from_pretrained("model")
trainer = RewardTrainer(
    AutoModelForSequenceClassification.from_pretrained("model", num_labels=1),
    Config("out", center_rewards_coefficient=0.01, max_steps=2, per_gpu_train_batch_size=4),
    processing_class=tokenizer,
    train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"),
)
trainer.train()
assert trainer.args.per_device_train_batch_size == 4
