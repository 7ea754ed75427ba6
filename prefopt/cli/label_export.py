"""`prefopt label export`: candidates in, a folder for annotators out, with the key apart."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..candidates.candidate import Candidate

WAYS = ("random", "across_policies", "within_policy", "across_temperatures")
ABOUT = """\
Choose pairs of responses to the same prompts and write what annotators need into OUTPUT_DIR/annotate: index.html, a
page that works offline, and the same pairs as csv, jsonl and tasks for Label Studio. Which response stood on which side
is in OUTPUT_DIR/key.jsonl: keep it from those who label. With a higher count the same folder gets more pairs.
"""


def main(argv: Sequence[str]) -> int:
    """Choose and write; 0 once all is there."""
    args = _parser().parse_args(list(argv))
    from ..labelling.export import export_labels
    from ..labelling.pairs import pairs_to_label

    pairs = pairs_to_label(
        candidates_of(Path(args.candidates), args.round),
        count=args.count,
        seed=args.seed,
        repeats=args.repeats,
        how=args.how,
        include_truncated=args.include_truncated,
    )
    page = export_labels(args.output_dir, pairs, lang=args.lang)
    print(f"{args.count:,} pairs, {len(pairs) - args.count:,} of them twice with sides swapped")
    print(f"  for annotators  {page.parent}")
    print(f"  the key         {Path(args.output_dir) / 'key.jsonl'}")
    return 0


def candidates_of(path: Path, round: int | None) -> Iterator[Candidate]:
    """The candidates of a pool, of a folder that has one as `pool`, or of one file of a pool.

    Raises:
        DataError: there are none.
    """
    from ..candidates.candidate import Candidate
    from ..candidates.pool import Pool
    from ..data.records import DataError
    from ..utils import jsonl

    if path.is_file():
        try:
            found = [Candidate.of(record) for record in jsonl.read(path)]
        except (KeyError, TypeError) as error:
            raise DataError(
                f"{path}: not a file of candidates ({error}): give a pool, as `prefopt best-of-n` fills one in "
                "OUTPUT_DIR/pool, or pool.folder"
            ) from error
        return (each for each in found if round in (None, each.round))
    pools = [folder for folder in (path, path / "pool") if Pool(folder).segments()]
    if not pools:
        raise DataError(
            f"{path}: no candidates-*.jsonl in it, nor in a folder `pool` of it: give a pool, as `prefopt best-of-n` "
            "fills one in OUTPUT_DIR/pool"
        )
    return Pool(pools[0]).candidates(round)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="prefopt label export", description=ABOUT, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("candidates", metavar="POOL", help="a pool of candidates, a run's folder with one, or a file of one")
    add("--output_dir", required=True, help="where the export goes; labels are imported there")
    add("--count", type=int, required=True, help="how many different pairs")
    add("--seed", type=int, default=0, help="decides pairs and sides (%(default)s)")
    add("--repeats", type=float, default=0.1, help="share shown again with sides swapped (%(default)s)")
    add("--how", choices=WAYS, default="random", help="which two responses make a pair (%(default)s)")
    add("--round", type=int, help="candidates of this round only")
    add("--include_truncated", action="store_true", help="also responses that the length limit truncated")
    add("--lang", choices=["en", "zh"], default="en", help="language to begin in (%(default)s)")
    return parser
