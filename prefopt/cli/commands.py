"""The table of all commands: those of the named trainers, and those that train nothing."""

from __future__ import annotations

from ..training.declarations import DECLARATIONS
from .command import Command

OTHERS: dict[str, Command] = {
    "best-of-n": Command(
        "Sample N responses to each prompt and select by scores.",
        "prefopt.cli.best_of_n",
        ("responses_per_prompt", "select", "score_threshold"),
        goes_on=True,
    ),
    "self-rejected": Command(
        "Pairs for DPO: a dataset's answers above the model's own.",
        "prefopt.cli.self_rejected",
        ("responses_per_prompt",),
        goes_on=True,
    ),
    "chat": Command("Talk to a model: prefopt chat FOLDER.", "prefopt.cli.chat"),
    "merge": Command("Merge an adapter into its base: prefopt merge FOLDER.", "prefopt.cli.merge"),
    "info": Command("What a folder holds, and what is installed.", "prefopt.cli.info"),
    "examples": Command("Short scripts to begin from: prefopt examples --to FOLDER.", "prefopt.cli.examples"),
    "completion": Command("A script that lets your shell complete all of this.", "prefopt.cli.completion"),
    "migrate": Command("A TRL script, or a file of LLaMA-Factory, for prefopt.", "prefopt.cli.migrate"),
    "compare": Command("Compare methods side by side, with error bars.", "prefopt.cli.compare", goes_on=True),
    "evaluate": Command("Compare trained policies on held-out prompts.", "prefopt.cli.evaluate", goes_on=True),
    "rounds": Command("Iterative rounds, RLHF-v1 to vN, with people in the loop.", "prefopt.cli.rounds", goes_on=True),
    "doctor": Command("Find what is wrong with a run: prefopt doctor RUN.", "prefopt.cli.doctor"),
    "data": Command(
        "Find what is wrong with a dataset: prefopt data check FILE.",
        tools={"check": "prefopt.cli.data_check", "formats": "prefopt.cli.data_formats"},
    ),
    "label": Command(
        "Let people compare responses: prefopt label export POOL.",
        tools={"export": "prefopt.cli.label_export", "import": "prefopt.cli.label_import"},
    ),
}


def all_commands() -> dict[str, Command]:
    """Name -> command, in the order in which the overview lists them."""
    training = {
        name: Command(declaration.summary, "prefopt.cli.train", declaration.settings, declaration)
        for name, declaration in DECLARATIONS.items()
    }
    return training | OTHERS
