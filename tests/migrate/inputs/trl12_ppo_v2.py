# TRL 0.12; runs
from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer
from trl.trainer.ppov2_trainer import PPOv2Config, PPOv2Trainer

trainer = PPOv2Trainer(
    config=PPOv2Config("out", total_episodes=16, num_mini_batches=2, response_length=8, exp_name="ppo", warmup_steps=0),
    tokenizer=AutoTokenizer.from_pretrained("model"),
    policy=AutoModelForCausalLM.from_pretrained("model"),
    ref_policy=AutoModelForCausalLM.from_pretrained("model"),
    reward_model=AutoModelForSequenceClassification.from_pretrained("model", num_labels=1),
    train_dataset=load_dataset("json", data_files="pairs.jsonl", split="train"),
)
assert trainer.args.max_new_tokens == 8 and trainer.args.max_steps > 0
