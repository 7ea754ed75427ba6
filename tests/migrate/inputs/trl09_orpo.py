# TRL 0.9; runs
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import ORPOConfig, ORPOTrainer

orpo_args = ORPOConfig(
    output_dir="out",
    beta=0.1,
    max_length=128,
    max_prompt_length=64,
    max_completion_length=64,
    max_steps=2,
)
trainer = ORPOTrainer(
    model=AutoModelForCausalLM.from_pretrained("model"),
    args=orpo_args,
    train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"),
    tokenizer=AutoTokenizer.from_pretrained("model"),
)
trainer.train()
assert list(trainer.objective.loss_type) == ["orpo"]
