# TRL 0.19; runs
from datasets import load_dataset
from peft import LoraConfig
from trl import DPOConfig, DPOTrainer

args = DPOConfig(
    output_dir="out",
    loss_type=["sigmoid", "bco_pair", "sft"],
    loss_weights=[0.8, 0.2, 1.0],
    padding_free=False,
    use_liger_loss=False,
    model_adapter_name=None,
    max_completion_length=None,
    max_steps=2,
)
trainer = DPOTrainer(
    "model",
    args=args,
    train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"),
    peft_config=LoraConfig(r=2),
)
trainer.train()
assert list(trainer.objective.loss_type) == ["sigmoid", "bco_pair", "sft"]
