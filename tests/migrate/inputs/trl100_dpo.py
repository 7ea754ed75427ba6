# TRL 1.0; runs
from datasets import load_dataset
from trl import DPOConfig, DPOTrainer

trainer = DPOTrainer(
    model="model",
    args=DPOConfig(output_dir="out", loss_type="ipo", precompute_ref_log_probs=True, max_steps=2),
    train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"),
)
trainer.train()
