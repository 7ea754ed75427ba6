"""What commands that draw responses and train nothing share: options, the policy, a pool to fill. Knows no scores.

    run.json   what decides a response; a command that says otherwise is refused
    pool/      the responses (`rollout/pool.py`)

To go on, or to draw more responses to each prompt, is to run the command again: what is there is not drawn twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..candidates.candidate import Candidate
from ..candidates.dataset_answers import DatasetAnswers
from ..candidates.generate import Origin, generate_into
from ..candidates.pool import Pool
from ..objectives.sampling_arguments import SamplingArguments
from ..training.arguments import LoadingArguments, RowsArguments, option
from ..training.checkpoint import begin
from . import is_first
from .help import ASKED, names_of, page
from .models import FOUR_BITS, check_place, check_without, load_for_drawing, named
from .parsing import TrlParser

if TYPE_CHECKING:
    from datasets import Dataset

    from . import Program

TEXTS = {
    "model_name_or_path": "The policy that responds: a folder, an adapter's folder or a hub id.",
    "responses_per_prompt": "How many responses are drawn to each prompt.",
    "max_new_tokens": "Longest response, in tokens. One that reaches it is not selected.",
    "load_in_8bit": "Load the policy in 8 bits.",
    "load_in_4bit": "Load the policy in 4 bits.",
}
"""What is said of these arguments otherwise where something is trained."""


@dataclass(kw_only=True)
class DrawingArguments(SamplingArguments):
    """How to draw, and where to put it."""

    output_dir: str = option("output", "Folder for the responses. The same command again goes on there.")
    seed: int = option(0, "Decides what is drawn: the same seed draws the same.")


@dataclass(frozen=True)
class Drawn:
    """The responses to a dataset's prompts: all of them, on disk.

    Args:
        prompts: the keys of those that were asked for.
        version: of the policy.
        new: how many of the responses were drawn now.
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
        return [one for one in self.pool.candidates() if self.has(one)]


def parsed(program: Program, prog: str, argv: Sequence[str], kinds: Sequence[type], example: str) -> tuple[Any, ...]:
    """The arguments: one of each of `kinds`, of which the first draws, then the model's and the rows'.

    Nothing, if it was help that was asked for.
    """
    parser = TrlParser((*kinds, LoadingArguments, RowsArguments), prog=prog, add_help=False)
    parser.describe("output_dir", parser.options["output_dir"].help, f"{prog.split()[-1]}-output")
    for name, text in TEXTS.items():
        parser.describe(name, text, parser.options[name].default)
    if not ASKED & set(argv):
        return parser.parse_args_and_config(argv)
    drawing = names_of(DrawingArguments)
    own = [name for kind in kinds for name in names_of(kind) if name not in drawing]
    parts = [
        (program.title, [*own, "output_dir", "seed"]),
        ("Drawing responses", names_of(SamplingArguments)),
        ("Model", names_of(LoadingArguments)),
        ("Data", names_of(RowsArguments)),
    ]
    print(page(prog, program.summary, parts, parser.options, example), end="")
    return ()


def check(args: DrawingArguments, model_args: LoadingArguments, rows_args: RowsArguments) -> None:
    """Refuse what is missing or cannot be, before anything is loaded."""
    name = named("model_name_or_path", model_args.model_name_or_path)
    named("dataset_name", rows_args.dataset_name)
    check_place("model_name_or_path", name)
    args.check_sampling()
    if not model_args.load_in_4bit:
        check_without("load_in_4bit", model_args, FOUR_BITS)


def draw(what: str, args: DrawingArguments, model_args: LoadingArguments, rows: Dataset) -> Drawn:
    """Fill the pool of `output_dir` with responses to the distinct prompts of the rows, several processes together.

    Raises:
        ValueError: the folder belongs to a run that drew otherwise; a prompt cannot be answered.
    """
    from accelerate import PartialState

    from ..models.reference import version_of

    processes, dataset, folder = PartialState(), DatasetAnswers(rows), Path(args.output_dir).expanduser()
    policy, tokenizer = load_for_drawing(model_args, processes.device)
    version = version_of(policy, tokenizer)
    if is_first():
        begin(folder, {"objective": what, "policy": version, **_deciding(args)}, resume=True)
    pool = Pool(folder / "pool")
    new = generate_into(pool, policy, tokenizer, dataset.prompts, args, Origin(version, args.seed), progress=True)
    processes.destroy_process_group()  # what is left is the first one's: the others need not wait for it
    return Drawn(folder, rows, pool, frozenset(dataset.answers), version, new, args.responses_per_prompt)


def _deciding(args: DrawingArguments) -> dict[str, Any]:
    """What decides a response. Of sampled ones more can be asked for later; beams are searched together."""
    free = {"sampling_batch_size"} | ({"responses_per_prompt"} if args.source == "sampling" else set())
    known = [field.name for field in fields(SamplingArguments) if field.name not in free]
    return {name: value for name, value in asdict(args).items() if name in known} | {"seed": args.seed}
