# TRL 1.16; to do 7, 8
from datasets import load_dataset
from trl import DPOConfig, DPOTrainer

trainer = DPOTrainer(
    model="model",
    args=DPOConfig("out", a_setting_of_tomorrow=3),
    an_argument_of_tomorrow=True,
    train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"),
)
