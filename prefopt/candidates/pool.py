"""Where candidates are kept: every one of every round on disk, with its scores by each scorer (`Pool`).

    candidates-<round>-<iteration>.jsonl                        one candidate a line, in the order they were appended
    scores/<fingerprint>/candidates-<round>-<iteration>.jsonl   a score for each of them, in the same order
    scores/<fingerprint>/scorer.json                            the scorer's name, for people
    index.json                                                  what these held when last written (`_ledger.py`)

Files are only ever appended to. What is on disk is a function of what was appended and scored, never of when a run was
killed: to go on, do it all again. Candidates and scores that the pool has are skipped. One process writes at a time.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import groupby, islice
from pathlib import Path

from ..models.lockstep import is_gathered
from ..scoring.combine import reward_models
from ..scoring.scorer import Scorer, checked
from ..utils import jsonl
from ..utils.distributed import made_by_all, of_first, on_first, rank, world_size
from ._ledger import Ledger
from .candidate import Candidate, Key, Scored

logger = logging.getLogger(__name__)

CHUNK = 256
"""How many candidates are scored at once; then their scores are put on disk."""
Segment = tuple[int, int]
"""A round and an iteration."""
_NAME = re.compile(r"candidates-(\d+)-(\d+)\.jsonl")
_FINGERPRINT = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}")


class PoolError(ValueError):
    """What is asked of a pool does not fit what it holds."""


class Pool:
    """A folder of candidates and their scores, which is read as a stream, never all at once."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        self._files = Ledger(self.folder)
        self._known: dict[Segment, dict[Key, tuple[str, float, int]]] = {}

    def append(self, candidates: Iterable[Candidate]) -> int:
        """Put candidates on disk; how many were new. Those whose key the pool has are skipped.

        Raises:
            PoolError: a candidate that the pool has was sampled by another policy, temperature or seed.
            OSError: as on a full disk; the message names the file, and what was on disk is intact.
        """
        new = 0
        for segment, group in groupby(candidates, key=lambda candidate: (candidate.round, candidate.iteration)):
            fresh = self._fresh(segment, group)
            self._files.append(self._candidates(segment), [candidate.record() for candidate in fresh.values()])
            self._settings(segment).update({key: candidate.settings for key, candidate in fresh.items()})
            new += len(fresh)
        return new

    def _fresh(self, segment: Segment, candidates: Iterable[Candidate]) -> dict[Key, Candidate]:
        """Those of the candidates that the pool does not have."""
        known, fresh = self._settings(segment), dict[Key, Candidate]()
        for candidate in candidates:
            settings = known.get(candidate.key, candidate.settings)
            if settings != candidate.settings:
                raise PoolError(
                    f"{self._candidates(segment)}: response {candidate.k} to {candidate.prompt_start!r} is there from "
                    f"(policy, temperature, seed) = {settings}, now {candidate.settings}: another run's pool"
                )
            if candidate.key not in known:
                fresh.setdefault(candidate.key, candidate)
        return fresh

    def segments(self) -> list[Segment]:
        """The rounds and iterations that have candidates, in order."""
        self._files.check_present()
        matches = (_NAME.fullmatch(path.name) for path in self.folder.glob("candidates-*.jsonl"))
        return sorted((int(match[1]), int(match[2])) for match in matches if match)

    def candidates(self, round: int | None = None, iteration: int | None = None) -> Iterator[Candidate]:
        """All candidates, or those of a round, or of an iteration of it, in the order they were appended."""
        for segment in self._within(round, iteration):
            yield from map(Candidate.of, self._files.read(self._candidates(segment)))

    def has(self, key: Key) -> bool:
        """Whether the pool has a candidate, so that it need not be sampled again."""
        return key in self._settings(key[:2])

    def score(self, scorer: Scorer, round: int | None = None, *, chunk: int = CHUNK) -> int:
        """Score whatever this scorer has not scored; how many candidates that were. Scores by other scorers stay.

        Chunks begin at the same candidates in every run, so that a resumed one asks for the very same batches. Several
        processes, all of which must call this, take chunks in turn, and the first writes.

        Raises:
            ScoreError: the scorer did not give one finite number per response; scores of chunks before are on disk.
            OSError: as on a full disk; the message names the file, and what was on disk is intact.
        """
        fingerprint = scorer.fingerprint
        on_first(partial(self._write_card, scorer.name, fingerprint))
        segments = of_first(self._within(round, None))
        return sum(self._score(scorer, fingerprint, segment, chunk) for segment in segments)

    def _score(self, scorer: Scorer, fingerprint: str, segment: Segment, chunk: int) -> int:
        path = self._scores(fingerprint, segment)
        done = of_first(sum(1 for _ in self._files.read(path)))
        left = _chunked(islice(self.candidates(*segment), done - done % chunk, None), chunk)
        shared = any(is_gathered(part.model) for part in reward_models(scorer))  # then no process can stand aside
        scored, new = done % chunk, 0  # how many of the first chunk have a score
        while dealt := list(islice(left, world_size())):  # a chunk for each process
            if len(dealt[0]) == scored:
                break  # the last chunk, and whole
            own = dealt[rank()] if rank() < len(dealt) else []
            scores_of_ranks = made_by_all(partial(_scores_of, scorer, own) if own or shared else list)
            records = [
                _score_record(candidate, score)
                for candidates, scores in zip(dealt, scores_of_ranks, strict=False)
                for candidate, score in zip(candidates, scores, strict=True)
            ][scored:]
            on_first(partial(self._files.append, path, records))
            scored, new = 0, new + len(records)
        if not new:
            on_first(partial(self._files.append, path, []))  # a kill may have come before the index knew the last ones
        return new

    def _write_card(self, name: str, fingerprint: str) -> None:
        if not _FINGERPRINT.fullmatch(fingerprint):
            raise PoolError(f"scorer {name!r} has the fingerprint {fingerprint!r}, which cannot name a folder")
        card = self.folder / "scores" / fingerprint / "scorer.json"
        if not card.is_file():
            jsonl.replace(card, [{"fingerprint": fingerprint, "name": name}])

    def scorers(self) -> dict[str, str]:
        """Fingerprint -> name of every scorer that has scored here."""
        cards = sorted((self.folder / "scores").glob("*/scorer.json"))
        return {card["fingerprint"]: card["name"] for path in cards for card in jsonl.read(path)}

    def scored(self, scorer: Scorer | str, round: int | None = None) -> Iterator[Scored]:
        """All candidates with their scores by one scorer, or by the fingerprint of one.

        Raises:
            PoolError: some have no score by this scorer.
        """
        fingerprint = scorer if isinstance(scorer, str) else scorer.fingerprint
        for segment in self._within(round, None):
            scores = self._files.read(self._scores(fingerprint, segment))
            for candidate in self.candidates(*segment):
                record = next(scores, None)
                if record is None or (record["prompt_key"], record["k"]) != candidate.key[2:]:
                    raise PoolError(self._unscored(fingerprint, segment, candidate, record))
                yield Scored(candidate, record["score"])

    def _unscored(self, fingerprint: str, segment: Segment, candidate: Candidate, record: object) -> str:
        problem = "has no score by it" if record is None else f"stands where its scores have {record}"
        known = ", ".join(f"{name} ({key})" for key, name in self.scorers().items()) or "none"
        return (
            f"{self._scores(fingerprint, segment)}: response {candidate.k} to {candidate.prompt_start!r} "
            f"{problem}: call pool.score(scorer) first. Scorers that have scored here: {known}"
        )

    def _within(self, round: int | None, iteration: int | None) -> list[Segment]:
        return [(r, i) for r, i in self.segments() if round in (None, r) and iteration in (None, i)]

    def _candidates(self, segment: Segment) -> Path:
        return self.folder / "candidates-{:03d}-{:05d}.jsonl".format(*segment)

    def _scores(self, fingerprint: str, segment: Segment) -> Path:
        return self.folder / "scores" / fingerprint / self._candidates(segment).name

    def _settings(self, segment: Segment) -> dict[Key, tuple[str, float, int]]:
        """How each candidate of a segment was sampled; read once."""
        if segment not in self._known:
            self._known[segment] = {candidate.key: candidate.settings for candidate in self.candidates(*segment)}
        return self._known[segment]


def _chunked(candidates: Iterator[Candidate], size: int) -> Iterator[list[Candidate]]:
    while chunk := list(islice(candidates, size)):
        yield chunk


def _scores_of(scorer: Scorer, candidates: list[Candidate]) -> list[float]:
    prompts, responses = [c.prompt for c in candidates], [c.response for c in candidates]
    scores = scorer.score(prompts, responses, [c.finished for c in candidates])
    return checked(scorer.name, scores, prompts, responses)


def _score_record(candidate: Candidate, score: float) -> dict[str, object]:
    return {
        "round": candidate.round,
        "iteration": candidate.iteration,
        "prompt_key": candidate.prompt_key,
        "k": candidate.k,
        "score": score,
    }
