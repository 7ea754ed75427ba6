# TRL 0.8, by module; runs
import trl
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

config = trl.DPOConfig(output_dir="out", max_steps=2, beta=0.1, label_pad_token_id=-100, is_encoder_decoder=False)
trainer = trl.DPOTrainer(
    AutoModelForCausalLM.from_pretrained("model"),
    args=config,
    train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"),
    tokenizer=AutoTokenizer.from_pretrained("model"),
)
trainer.train()
