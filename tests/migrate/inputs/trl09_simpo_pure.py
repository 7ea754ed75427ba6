# TRL 0.9; runs
from datasets import load_dataset
from trl import CPOConfig, CPOTrainer

args = CPOConfig("out", loss_type="simpo", cpo_alpha=0.0, simpo_gamma=0.5, max_steps=2)
trainer = CPOTrainer("model", args=args, train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"))
trainer.train()
assert list(trainer.objective.loss_type) == ["simpo"] and trainer.objective.loss_weights is None
