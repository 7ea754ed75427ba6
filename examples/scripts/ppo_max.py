"""PPO-max (Secrets of RLHF I, arXiv:2307.04964): sample, score and learn from it at once.

python ppo_max.py --tiny
python ppo_max.py --model sft --prompts prompts.jsonl --scorer reward-model
"""

from common import options

from prefopt import PPOConfig, PPOTrainer

args = options(__doc__, "ppo", prompts="prompts.jsonl", scorer="reward-model")
sizes = {"max_new_tokens": 32, "num_mini_batches": 2, "critic_pretrain_steps": 4} if args.tiny else {}
trainer = PPOTrainer(
    args.model,
    PPOConfig(args.output_dir, missing_eos_penalty=1.0, **sizes, **args.short),
    train_dataset=args.prompts,
    scorer=args.scorer,
)
trainer.train()
trainer.save_model()
print(trainer.summary())
