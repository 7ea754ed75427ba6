"""RRHF (arXiv:2304.05302): rank K scored responses as their scores do, and imitate the best.

python rrhf.py --tiny
python rrhf.py --model sft --data lists.jsonl     # rows with query, responses and scores
"""

from common import WORLD, options

from prefopt import RRHFConfig, RRHFTrainer

args = options(__doc__, "rrhf", data="lists.jsonl")
if args.tiny:
    args.data = str(WORLD / "lists.jsonl")
trainer = RRHFTrainer(args.model, RRHFConfig(args.output_dir, **args.short), train_dataset=args.data)
trainer.train()
trainer.save_model()
print(trainer.summary())
