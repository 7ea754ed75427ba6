"""DPO on pairs of answers, with LoRA: the shortest way to a preference-optimized model.

python dpo.py --tiny
python dpo.py --model HuggingFaceTB/SmolLM2-135M-Instruct --data Anthropic/hh-rlhf
"""

from common import options
from peft import LoraConfig

from prefopt import DPOConfig, DPOTrainer

args = options(__doc__, "dpo", data="Anthropic/hh-rlhf")
trainer = DPOTrainer(
    args.model,
    args=DPOConfig(args.output_dir, beta=0.1, loss_type="sigmoid", learning_rate=2e-5, **args.short),
    train_dataset=args.data,
    peft_config=LoraConfig(r=16, lora_alpha=32, target_modules="all-linear"),
)
trainer.train()
trainer.save_model()
print(trainer.summary())
