# TRL 0.9; runs
from datasets import load_dataset
from trl import CPOConfig, CPOTrainer

trainer = CPOTrainer(
    "model",
    args=CPOConfig("out", max_steps=2),
    train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"),
)
trainer.train()
assert list(trainer.objective.loss_type) == ["cpo"]
