"""Which adapter reads rows: the one that knows them, or that was asked for; and which kinds of row serve a purpose."""

from .adapters import REGISTRY, Adapter, by_name, catalogue, from_outside, recognise
from .reading import Located
from .records import DataError
from .tokenised import is_tokenised

KINDS = {
    "preferences": frozenset({"pair", "list"}),
    "unpaired": frozenset({"unpaired", "pair"}),  # a pair is two of them, see `encode.split_pairs`
    "sft": frozenset({"pair", "list", "unpaired", "sft"}),
    "prompts": frozenset({"pair", "list", "unpaired", "sft", "prompt"}),
    "any": frozenset({"pair", "list", "unpaired", "sft", "prompt"}),  # prompts, with whatever answers they have
    "own": frozenset({"pair", "list", "unpaired", "sft", "prompt"}),  # what the rows' own kind is for: a tie is no pair
}
"""Which kinds of row serve a purpose: SFT trains on the best of several responses, and every row has a prompt."""

ANY = KINDS["prompts"]


def adapter_for(sample: list[Located], name: str, purpose: str) -> Adapter:
    """The adapter of this name, or with "auto" the one that knows the rows.

    Raises:
        DataError: no such purpose or adapter, or one whose rows do not serve the purpose; no adapter knows the rows.
    """
    if purpose not in KINDS:
        raise DataError(f"unknown purpose {purpose!r}; known are {', '.join(KINDS)}")
    return _recognised(sample, KINDS[purpose]) if name == "auto" else _allowed(_named(name, sample), KINDS[purpose])


def _recognised(sample: list[Located], kinds: frozenset[str]) -> Adapter:
    """The adapter that knows these rows, or an error that says which formats there are."""
    rows = [row for _, row in sample]
    adapter = recognise(rows, kinds)
    if adapter is not None:
        return adapter
    if is_tokenised(rows[0]):
        raise DataError(
            f"{sample[0][0]}: the rows are token ids, which training takes as they are; only rows of text can be read "
            "here, so give the file that they were made from"
        )
    other = recognise(rows, ANY)
    hint = (
        f"\nThey look like {other.name!r}, which holds no {_wanted(kinds)}: use another load function." if other else ""
    )
    keys = ", ".join(f"{name} ({type(value).__name__})" for name, value in rows[0].items())
    raise DataError(
        f"{sample[0][0]}: no adapter knows rows with the fields {keys}. Say what they are by `columns`, such as "
        "prompt=NAME chosen=NAME rejected=NAME, or prompt=NAME response_a=NAME response_b=NAME winner=NAME where a "
        f"column names the better of two; or use one of the formats\n{catalogue(kinds)}{hint}"
    )


def _wanted(kinds: frozenset[str]) -> str:
    """What rows of these kinds have, in a word."""
    return "answer" if "sft" in kinds else "preference"


def _named(name: str, sample: list[Located]) -> Adapter:
    """The adapter of this name, ours or a user's own."""
    if ":" in name and name not in REGISTRY:
        return from_outside(name, sample)
    return by_name(name)


def _allowed(adapter: Adapter, kinds: frozenset[str]) -> Adapter:
    """The adapter, if rows of its kind serve the purpose."""
    if adapter.kind not in kinds:
        raise DataError(f"adapter {adapter.name!r} holds no {_wanted(kinds)}; adapters that do are\n{catalogue(kinds)}")
    return adapter
