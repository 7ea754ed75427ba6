"""Supervised fine-tuning as users of TRL write it: `python trl_sft.py MODEL OUT`; a test changes the import alone."""

import sys

from datasets import Dataset
from trl import SFTConfig, SFTTrainer

from prefopt.testbed import sft_rows

name, out = sys.argv[1:]
rows = Dataset.from_list(
    [
        {"prompt": row["prompt"], "completion": [{"role": "assistant", "content": row["response"]}]}
        for row in sft_rows(24, 0)
    ]
)
trainer = SFTTrainer(
    model=name,
    args=SFTConfig(
        output_dir=out,
        loss_type="dft",
        max_length=256,
        packing=False,
        packing_strategy="bfd",
        eval_packing=None,
        shuffle_dataset=True,
        dataset_kwargs={"skip_prepare_dataset": False},
        completion_only_loss=True,
        per_device_train_batch_size=8,
        max_steps=2,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
    ),
    train_dataset=rows,
)
trainer.train()
trainer.save_model(out)
