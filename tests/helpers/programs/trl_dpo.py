"""A DPO run as users of TRL write it: `python trl_dpo.py MODEL OUT`; a test changes the import and nothing else."""

import sys

from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DPOConfig, DPOTrainer

from prefopt.testbed import preference_rows

name, out = sys.argv[1:]
pairs = Dataset.from_list(
    [
        {
            "prompt": row["prompt"],
            "chosen": [{"role": "assistant", "content": row["chosen"]}],
            "rejected": [{"role": "assistant", "content": row["rejected"]}],
        }
        for row in preference_rows(24, 0)
    ]
)
parts = pairs.train_test_split(test_size=8, seed=0)
training_args = DPOConfig(
    output_dir=out,
    beta=0.2,
    loss_type=["sigmoid", "sft"],
    loss_weights=[1.0, 0.5],
    max_length=256,
    truncation_mode="keep_start",
    pad_to_multiple_of="auto",
    padding_free=False,
    precompute_ref_log_probs=True,
    remove_unused_columns=True,
    per_device_train_batch_size=8,
    max_steps=2,
    logging_steps=1,
    eval_strategy="steps",
    eval_steps=2,
    save_strategy="no",
    report_to="none",
    disable_tqdm=True,
    use_cpu=True,
    bf16=False,
)
trainer = DPOTrainer(
    model=AutoModelForCausalLM.from_pretrained(name),
    args=training_args,
    train_dataset=parts["train"],
    eval_dataset=parts["test"],
    processing_class=AutoTokenizer.from_pretrained(name),
)
trainer.train()
trainer.save_model(training_args.output_dir)
