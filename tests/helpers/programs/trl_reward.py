"""A reward model as users of TRL train it: `python trl_reward.py MODEL OUT`; a test changes the import alone."""

import sys

from datasets import Dataset
from peft import LoraConfig
from trl import RewardConfig, RewardTrainer

from prefopt.testbed import preference_rows

name, out = sys.argv[1:]
pairs = Dataset.from_list(
    [
        {side: [*row["prompt"], {"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
        for row in preference_rows(24, 0)
    ]
)
trainer = RewardTrainer(
    model=name,
    args=RewardConfig(
        output_dir=out,
        center_rewards_coefficient=0.01,
        activation_offloading=False,
        max_length=256,
        per_device_train_batch_size=8,
        max_steps=2,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
    ),
    train_dataset=pairs,
    peft_config=LoraConfig(r=4, target_modules=["q_proj", "v_proj"], task_type="SEQ_CLS", modules_to_save=["score"]),
)
trainer.train()
trainer.save_model(out)
