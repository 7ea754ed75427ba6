"""What commands that sample responses and train nothing share: options, the policy, a pool to fill. Knows no scores.

    run.json   what decides a response; a command that says otherwise is refused
    pool/      the responses (`candidates/pool.py`)

To go on, or to sample more responses to each prompt, is to run the command again: what is there is not sampled twice.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..candidates.candidate import Candidate
from ..candidates.dataset_answers import DatasetAnswers
from ..candidates.generate import Origin, generate_into
from ..candidates.pool import Pool
from ..data.template_variables import set_template_defaults
from ..data.text_prompts import check_mode, with_turns
from ..objectives.engine_arguments import EngineArguments
from ..objectives.sampling_arguments import SamplingArguments
from ..training.arguments import LoadingArguments, RowsArguments
from ..training.checkpoint import begin
from ..utils.options import option
from .command import HELP_ALL, Command
from .console import is_first
from .help_page import Page
from .help_pages import NEEDED, Pages, asked_for, names_of
from .models import FOUR_BITS, check_place, check_without, load_for_sampling, located, named
from .parsing import TrlParser

if TYPE_CHECKING:
    from datasets import Dataset

TEXTS = {
    "model_name_or_path": "The policy that responds: a folder, an adapter's folder or a hub id.",
    "responses_per_prompt": "How many responses are sampled to each prompt.",
    "max_new_tokens": "Longest response, in tokens. One that reaches it is not selected.",
    "load_in_8bit": "Load the policy in 8 bits.",
    "load_in_4bit": "Load the policy in 4 bits.",
}
"""What is said of these arguments otherwise where something is trained."""
SHORT = ("temperature", "top_p", "max_new_tokens", "sampling_batch_size", "seed")
"""What the short help page shows of sampling."""


@dataclass(kw_only=True)
class SamplingCommandArguments(EngineArguments, SamplingArguments):
    """How to sample responses, and where to put them."""

    output_dir: str = option("output", "Folder for the responses. The same command again goes on there.")
    seed: int = option(0, "Decides what is sampled: the same seed samples the same.")
    text_prompts: str = option(
        "auto", "What a prompt in plain text is: user, verbatim, or auto: user where there is a chat template."
    )
    chat_template_kwargs: dict[str, Any] | None = option(
        None,
        'Values of variables that the chat template reads, such as {"enable_thinking": false}. A policy that was '
        "trained with some has them as its defaults.",
    )


@dataclass(frozen=True)
class Sampled:
    """The responses to a dataset's prompts: all of them, on disk.

    Args:
        prompts: the keys of those that were asked for.
        version: of the policy.
        new: how many of the responses were sampled now.
    """

    folder: Path
    rows: Dataset
    pool: Pool
    prompts: frozenset[str]
    version: str
    new: int
    responses_per_prompt: int

    def has(self, candidate: Candidate) -> bool:
        """Whether it was asked for: the pool may hold more, of a command with more prompts or responses."""
        return candidate.k < self.responses_per_prompt and candidate.prompt_key in self.prompts

    def candidates(self) -> list[Candidate]:
        """The responses that were asked for."""
        return [candidate for candidate in self.pool.candidates() if self.has(candidate)]


def parsed(command: Command, prog: str, argv: Sequence[str], kinds: Sequence[type], title: str) -> tuple[Any, ...]:
    """The arguments: one of each of `kinds`, of which the first samples, then the model's and the rows'.

    Nothing, if it was help that was asked for.
    """
    if asked_for(argv):
        print(page_of(command, prog, kinds, title, HELP_ALL in argv).text(), end="")
        return ()
    return _parser(prog, kinds).parse_args_and_config(argv)


def page_of(command: Command, prog: str, kinds: Sequence[type], title: str, whole: bool) -> Page:
    """The help page of a command with these settings; `title` stands above the command's own."""
    options = _parser(prog, kinds).options
    scored = "scorer" in options
    needed = (*NEEDED, "scorer") if scored else NEEDED
    data, more = ("prompts.jsonl", " --scorer reward-model") if scored else ("demonstrations.jsonl", "")
    pages = Pages(command, prog, options, needed, data, f"{more} --output_dir out")
    if not whole:
        return pages.short(title, {"Sampling": SHORT, "Model": ("dtype", "load_in_4bit")})
    sampling = [*names_of(SamplingArguments), *names_of(EngineArguments), "seed"]
    own = [name for kind in kinds for name in names_of(kind) if name not in sampling]
    groups = {"Model": names_of(LoadingArguments), "Data": names_of(RowsArguments)}
    return pages.all(title, {f"{title}, more": own, "Sampling": sampling, **groups})


def _parser(prog: str, kinds: Sequence[type]) -> TrlParser:
    parser = TrlParser((*kinds, LoadingArguments, RowsArguments), prog=prog, add_help=False)
    parser.describe("output_dir", parser.options["output_dir"].help, f"{prog.split()[-1]}-output")
    for name, text in TEXTS.items():
        parser.describe(name, text, parser.options[name].default)
    return parser


def check(args: SamplingCommandArguments, model_args: LoadingArguments, rows_args: RowsArguments) -> None:
    """Refuse what is missing or cannot be, before anything is loaded."""
    name = named("model_name_or_path", model_args.model_name_or_path)
    named("dataset_name", rows_args.dataset_name)
    check_place("--model_name_or_path", name)
    args.check_sampling()
    args.check_vllm(args.source, (args.temperature,))
    check_mode(args.text_prompts)
    if not model_args.load_in_4bit:
        check_without("load_in_4bit", model_args, FOUR_BITS)


def sample(what: str, args: SamplingCommandArguments, model_args: LoadingArguments, rows: Dataset) -> Sampled:
    """Fill the pool of `output_dir` with responses to the distinct prompts of the rows, several processes together.

    Raises:
        ValueError: the folder belongs to a run that sampled otherwise; a prompt cannot be answered.
    """
    import torch
    from accelerate import PartialState

    from ..generation.samplers import OWN, folder_at, sampler_from, version_of

    processes, folder = PartialState(cpu=not torch.accelerator.is_available()), Path(args.output_dir).expanduser()
    sampler = sampler_from(args, **located(model_args))
    policy, tokenizer = load_for_sampling(model_args, "cpu" if args.use_vllm else processes.device)
    sampler.check(policy, trains=False)
    set_template_defaults(tokenizer, args.chat_template_kwargs)
    rows = with_turns(rows, tokenizer, args.text_prompts)
    dataset = DatasetAnswers(rows)
    version = version_of(policy, tokenizer, sampler)
    if is_first():
        engine = {} if sampler.identity(policy) == OWN else {"engine": sampler.identity(policy)}
        begin(folder, {"objective": what, "policy": version, **engine, **_deciding(args)}, resume=True)
    pool = Pool(folder / "pool")
    name = os.path.expanduser(str(model_args.model_name_or_path))
    with sampler.serving(policy, folder_at(name)) as served:
        new = generate_into(pool, served, tokenizer, dataset.prompts, args, Origin(version, args.seed), progress=True)
    processes.destroy_process_group()  # what is left is the first one's: the others need not wait for it
    return Sampled(folder, rows, pool, frozenset(dataset.answers), version, new, args.responses_per_prompt)


def _deciding(args: SamplingCommandArguments) -> dict[str, Any]:
    """What decides a response. Of sampled ones more can be asked for later; beams are searched together."""
    free = {"sampling_batch_size"} | ({"responses_per_prompt"} if args.source == "sampling" else set())
    known = [field.name for field in fields(SamplingArguments) if field.name not in free]
    return {name: value for name, value in asdict(args).items() if name in known} | {"seed": args.seed}
