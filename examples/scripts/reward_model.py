"""A reward model with Llama 2's margins: pairs that annotators found far apart have to be scored further apart.

python reward_model.py --tiny
python reward_model.py --data graded.jsonl     # rows with prompt, chosen, rejected and grade
"""

from common import WORLD, options

from prefopt import RewardConfig, RewardTrainer
from prefopt.scoring import scorer_from

args = options(__doc__, "reward", data="graded.jsonl")
if args.tiny:
    args.data = str(WORLD / "graded.jsonl")
trainer = RewardTrainer(
    args.model,
    RewardConfig(args.output_dir, margin="small", center_rewards_coefficient=0.01, learning_rate=1e-4, **args.short),
    train_dataset=args.data,
)
trainer.train()
trainer.save_model()
print(trainer.summary())

question = [{"role": "user", "content": "What is the capital of France?"}]
print("scores:", scorer_from(args.output_dir).score([question, question], ["Paris.", "I don't know."]))
