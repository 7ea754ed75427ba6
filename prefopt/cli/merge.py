"""`prefopt merge`: makes a plain model of an adapter and its base, and checks that it says the same."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .command import Command

ABOUT = """\
Merge an adapter into its base and save the plain model, which anything loads that knows no adapters. Its logits are
compared with the adapted model's before it is saved, and those of the saved one with them after. A base in 4 or 8
bits is dequantised to bfloat16, and it is said by how much the logits change.
"""
EXAMPLE = """\
  prefopt merge out/dpo --output_dir out/dpo-merged
  prefopt merge out/dpo --output_dir out/dpo-merged --dtype bfloat16
"""


def main(command: Command, prog: str, argv: Sequence[str]) -> int:
    """Parse, merge, save, check; returns the exit code."""
    args = _parser(prog).parse_args(list(argv))
    out = Path(args.output_dir).expanduser()
    if out.is_file() or (out.is_dir() and any(out.iterdir())):
        raise ValueError(f"--output_dir {out} is not empty: name another folder")
    from .console import quiet_libraries, set_up_logging
    from .models import check_place, policy_in

    source = policy_in(str(Path(args.adapter).expanduser()) if args.adapter.startswith("~") else args.adapter)
    check_place("ADAPTER", source)
    set_up_logging()
    quiet_libraries()
    _merge(source, out, args)
    print(f"{out}: a plain model, whose logits are those of {source}")
    return 0


def _merge(source: str, out: Path, args: argparse.Namespace) -> None:
    from ..models.merge import check_saved, merge_adapter
    from ..models.saved_adapter import is_adapter, is_policy_adapter
    from ..models.tokenizers import load_tokenizer
    from ..training.arguments import LoadingArguments, get_quantization_config, loading
    from ..training.card import CARD, card_of
    from ..training.final_model import write_whole
    from ..training.lineage import FILE, read_record
    from ..utils import files

    if not is_adapter(source):
        raise ValueError(f"{source} holds no adapter, which would have an adapter_config.json: it is a plain model")
    scores = not is_policy_adapter(source)
    wanted = LoadingArguments(source, dtype=args.dtype, load_in_4bit=args.load_in_4bit, load_in_8bit=args.load_in_8bit)
    adapted = _load(source, scores, get_quantization_config(wanted), loading(wanted))
    merged = merge_adapter(adapted)
    del adapted
    tokenizer, record = load_tokenizer(source), read_record(Path(source))

    def save(folder: Path) -> None:
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        if record:
            described = record | {"adapter": None, "merged_from": args.adapter}
            files.replace(folder / FILE, json.dumps(described, indent=2, ensure_ascii=False) + "\n")
            files.replace(folder / CARD, card_of(described))

    write_whole(save, out)
    check_saved(merged, _load(str(out), scores, None, {"dtype": merged.dtype}))


def _load(source: str, scores: bool, quantization: Any, options: dict[str, Any]) -> Any:
    from ..models.load import load_policy, load_scorer

    load: Any = load_scorer if scores else load_policy
    return load(source, quantization_config=quantization, **options)


def _parser(prog: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=ABOUT, epilog=EXAMPLE, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add: Any = parser.add_argument
    add("adapter", metavar="ADAPTER", help="folder or hub id of an adapter, or the folder of a run that trained one")
    add("--output_dir", required=True, metavar="FOLDER", help="where the plain model goes; a new or empty folder")
    add("--dtype", default="float32", choices=["float32", "bfloat16", "float16"], help="of its weights (%(default)s)")
    add("--load_in_4bit", action="store_true", help="merge into the base as 4 bits hold it, dequantised")
    add("--load_in_8bit", action="store_true", help="merge into the base as 8 bits hold it, dequantised")
    return parser
