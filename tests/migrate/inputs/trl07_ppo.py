# TRL 0.7; to do 6, 7, 8, 9
from transformers import AutoTokenizer
from trl import AutoModelForCausalLMWithValueHead, PPOConfig, PPOTrainer

tokenizer = AutoTokenizer.from_pretrained("model")
model = AutoModelForCausalLMWithValueHead.from_pretrained("model")
config = PPOConfig(learning_rate=1e-5, mini_batch_size=4)
trainer = PPOTrainer(config, model, None, tokenizer, dataset=[])
for batch in trainer.dataloader:
    response = trainer.generate(batch["input_ids"])
    rewards = [1.0 for _ in response]
    trainer.step(batch["input_ids"], response, rewards)
