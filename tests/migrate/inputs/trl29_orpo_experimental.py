# TRL 0.29; runs
from datasets import load_dataset
from trl.experimental.orpo import ORPOConfig, ORPOTrainer

trainer = ORPOTrainer(
    "model",
    args=ORPOConfig("out", max_steps=2, padding_value=0),
    train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"),
)
trainer.train()
assert list(trainer.objective.loss_type) == ["orpo"]
