"""用中文 rm-static 格式的数据训练奖励模型：A reward model from Chinese rows in the format of rm-static.

    python chinese_rm_static.py --tiny
    python chinese_rm_static.py --model Qwen/Qwen3-0.6B --data zh_rm_static.jsonl

Each row has a prompt that ends on "Assistant:", and the answers chosen and rejected. It is split at its turns.
"""

from common import WORLD, options

from prefopt import RewardConfig, RewardTrainer, load_preferences

args = options(__doc__, "reward-zh", "Qwen/Qwen3-0.6B", data="zh_rm_static.jsonl")
if args.tiny:
    args.data = str(WORLD / "zh.jsonl")
pairs = load_preferences(args.data)
print(pairs[0]["prompt"][-1]["content"], "→", pairs[0]["chosen"])
trainer = RewardTrainer(args.model, RewardConfig(args.output_dir, **args.short), train_dataset=pairs)
trainer.train()
trainer.save_model()
print(trainer.summary())
