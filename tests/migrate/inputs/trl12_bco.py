# TRL 0.12; runs
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import BCOConfig, BCOTrainer

rows = [{"prompt": f"q{i}", "completion": f"a{i}", "label": i % 2 == 0} for i in range(8)]
trainer = BCOTrainer(
    model=AutoModelForCausalLM.from_pretrained("model"),
    args=BCOConfig("out", beta=0.01, max_steps=2),
    train_dataset=Dataset.from_list(rows),
    processing_class=AutoTokenizer.from_pretrained("model"),
)
trainer.train()
assert trainer.objective.loss_type == "bco"
