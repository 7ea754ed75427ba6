# TRL 0.7; to do 9, 14
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DataCollatorForCompletionOnlyLM, SFTTrainer

rows = load_dataset("json", data_files="sft.jsonl", split="train")
model = AutoModelForCausalLM.from_pretrained("model")
tokenizer = AutoTokenizer.from_pretrained("model")
collator = DataCollatorForCompletionOnlyLM(" ### Answer:", tokenizer=tokenizer)

trainer = SFTTrainer(
    model,
    train_dataset=rows,
    data_collator=collator,
    max_seq_length=64,
)
trainer.train()
