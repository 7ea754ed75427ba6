"""What somebody may have meant who wrote a name that does not exist."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches


def nearest(name: str, known: Iterable[str], aliases: Mapping[str, str] | None = None, most: int = 2) -> list[str]:
    """The known names that `name` may stand for, the likeliest first; empty where nothing is near.

    A name matches whether it is written with `-` or `_`, in capitals or not. An alias wins over what merely looks
    similar: `lr` is learning_rate, though `lora_r` has more letters in common. Where nothing looks similar, names that
    contain the given one are returned.

    Args:
        aliases: another name -> the known one.
        most: how many at most.
    """
    by_plain = {_plain(each): each for each in map(str, known)}
    plain = _plain(name)
    if plain in by_plain:
        return [by_plain[plain]]
    if (meant := _plain((aliases or {}).get(plain, ""))) in by_plain:
        return [by_plain[meant]]
    near = get_close_matches(plain, by_plain, n=most) or [each for each in by_plain if plain and plain in each][:most]
    return [by_plain[each] for each in near]


def did_you_mean(
    name: str, known: Iterable[str], aliases: Mapping[str, str] | None = None, *, most: int = 2, prefix: str = ""
) -> str:
    """ "did you mean A or B?", empty where nothing is near; `prefix` stands before each name, such as `--`."""
    near = nearest(name, known, aliases, most)
    return f"did you mean {' or '.join(prefix + each for each in near)}?" if near else ""


def hint(name: str, known: Iterable[str], aliases: Mapping[str, str] | None = None) -> str:
    """The end of a message about an unknown name: what was meant, or else everything that is known."""
    known = list(map(str, known))
    return "; " + (did_you_mean(name, known, aliases) or f"known are {', '.join(known)}")


def _plain(name: str) -> str:
    return name.replace("-", "_").lower()
