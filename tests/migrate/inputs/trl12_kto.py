# TRL 0.12; runs
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import KTOConfig, KTOTrainer

rows = [{"prompt": f"q{i}", "completion": f"a{i}", "label": i % 2 == 0} for i in range(8)]
trainer = KTOTrainer(
    model=AutoModelForCausalLM.from_pretrained("model"),
    args=KTOConfig("out", desirable_weight=1.0, generate_during_eval=False, max_completion_length=32, max_steps=2),
    train_dataset=Dataset.from_list(rows),
    tokenizer=AutoTokenizer.from_pretrained("model"),
)
trainer.train()
