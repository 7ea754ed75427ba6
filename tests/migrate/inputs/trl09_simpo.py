# TRL 0.9; runs
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import CPOConfig, CPOTrainer

args = CPOConfig("out", loss_type="simpo", cpo_alpha=0.5, simpo_gamma=0.5, beta=2.0, max_steps=2)
trainer = CPOTrainer(
    AutoModelForCausalLM.from_pretrained("model"),
    args=args,
    train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"),
    processing_class=AutoTokenizer.from_pretrained("model"),
)
trainer.train()
assert list(trainer.objective.loss_type) == ["simpo", "sft"] and list(trainer.objective.loss_weights) == [1.0, 0.5]
