# TRL 0.7; to do 9
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments
from trl import DPOTrainer, create_reference_model

model = AutoModelForCausalLM.from_pretrained("model")
trainer = DPOTrainer(
    model,
    create_reference_model(model),
    args=TrainingArguments("out", max_steps=2),
    train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"),
    tokenizer=AutoTokenizer.from_pretrained("model"),
)
trainer.train()
