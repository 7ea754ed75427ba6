"""Rejection-sampling fine-tuning (Llama 2): sample K responses to each prompt, train on the best of them, and again.

python rejection_sampling.py --tiny
python rejection_sampling.py --model sft --prompts prompts.jsonl --scorer reward-model
"""

from common import options

from prefopt import RejectionSamplingConfig, RejectionSamplingTrainer

args = options(__doc__, "rejection-sampling", prompts="prompts.jsonl", scorer="reward-model")
sizes = {"iterations": 1, "responses_per_prompt": 4, "max_new_tokens": 48} if args.tiny else {"iterations": 3}
trainer = RejectionSamplingTrainer(
    args.model,
    RejectionSamplingConfig(args.output_dir, **sizes, **args.short),
    train_dataset=args.prompts,
    scorer=args.scorer,
)
trainer.train()
trainer.save_model()
print(trainer.summary())
