# TRL 0.7; runs
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainingArguments
from trl import DPOTrainer

model = AutoModelForCausalLM.from_pretrained("model")
tokenizer = AutoTokenizer.from_pretrained("model")
args = TrainingArguments(
    output_dir="out",
    evaluation_strategy="no",
    warmup_ratio=0.1,  # 十分之一
    max_steps=2,
)
trainer = DPOTrainer(
    model,
    None,
    args=args,
    beta=0.2,
    train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"),
    tokenizer=tokenizer,
    max_length=128,
    max_prompt_length=64,
    max_target_length=64,
    loss_type="kto_pair",
)
trainer.train()
assert trainer.args.beta == 0.2 and trainer.args.max_length == 128 and trainer.args.loss_type == "kto"
