"""Iterative rounds, RLHF-v1 to vN, in which a judge labels pairs of the newest policy's responses.

    python rounds.py --tiny
    python rounds.py --model sft --prompts prompts.jsonl

The commands `prefopt rounds PLAN.yaml` and its plans in examples/rounds do the same from a file. Needs
'prefopt[compare]'.
"""

from common import options

from prefopt.rounds import run_rounds

args = options(__doc__, "rounds", prompts="prompts.jsonl")
small = {"per_device_train_batch_size": 16, "max_length": 128, "max_new_tokens": 32, "bf16": False, "max_steps": 4}
plan = {
    "title": "A round",
    "policy": args.model,
    "data": "testbed" if args.tiny else args.prompts,
    "training": small if args.tiny else {"max_length": 1024},
    "evaluation": {"prompts": 16, "pairs": 32, "responses_per_prompt": 1, "max_new_tokens": 32, "curve_prompts": 4},
    "round": {
        "prompts": {"label": 32, "sample": 16} if args.tiny else {"label": 2000, "sample": 2000},
        "label": {"by": "testbed" if args.tiny else "my_judges:longer"},
        "reward": {"learning_rate": 1e-3 if args.tiny else 1e-5},
        "sample": {"responses_per_prompt": 2 if args.tiny else 8},
        "train": {"method": "rejection-sampling"},
    },
    "rounds": 1 if args.tiny else 3,
}
if __name__ == "__main__":  # its processes import this file
    run = run_rounds(plan, args.output_dir)
    print("failures:", run.failures or "none", "- the policy is in", run.out / "rlhf-v1/policy")
