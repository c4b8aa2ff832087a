"""The only place where a score adds up: every target once, every byte once, one division at the end.

Nats are kept per target in float64 and summed pairwise within a document, then exactly rounded over documents
(`math.fsum`), so a total does not depend on how windows were batched. Bytes are Python integers. Nothing here averages
ratios: bits per byte is total bits over total bytes.
"""

import math
from collections.abc import Iterator
from typing import Any, Literal, Self

import msgspec
import numpy as np
from jaxtyping import Float64

from nutshell.errors import LegalityError
from nutshell.score.mixtures import Ngram, NgramConfig
from nutshell.score.predictor import Scored
from nutshell.score.text import Documents, Track
from nutshell.score.windows import WindowPlan
from nutshell.units import bits_per_byte

# Rounding of log p near p = 1 can leave -log p below zero by about one float32 step; more is a probability above one.
MOST_NEGATIVE_NATS = -1e-6


class Strategy(msgspec.Struct, frozen=True, kw_only=True):
    """How a score was made.

    Attributes:
        kind: Name of the strategy: `disjoint` or `sliding` windows of a frozen model, or one that learns.
        unit: What windows are laid over: each `document` by itself, or the whole `stream`.
        context: Most inputs that a prediction saw.
        stride: Targets by which windows advance.
        rules: Names of the accounting rules in force (`docs/scoring-rules.md`).
        settings: All that the strategy was told besides.
    """

    kind: str
    unit: Literal["document", "stream"]
    context: int
    stride: int
    rules: tuple[str, ...]
    settings: dict[str, Any] = {}

    @classmethod
    def of(
        cls,
        plan: WindowPlan,
        unit: Literal["document", "stream"],
        *,
        kind: str | None = None,
        settings: dict[str, Any] | None = None,
    ) -> Self:
        """Describe a strategy over windows, with the rule of its unit; its kind is the windows' unless given."""
        rule = "charge_end" if unit == "document" else "charge_bos"
        return cls(
            kind=kind or plan.kind,
            unit=unit,
            context=plan.context,
            stride=plan.stride,
            rules=(rule,),
            settings=settings or {},
        )


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """A finished score; every ratio stands beside its parts.

    Attributes:
        metric: `bpb` over a whole text; `subset_bpb` over some of its documents: two numbers that do not compare.
        bpb: Total bits over total bytes.
        nats_per_token: Total nats over all charged targets, zero-byte targets included.
        nats_per_byte: Total nats over total bytes.
        total_nats: Code length of the scored text.
        tokens: Charged targets.
        bytes: Bytes that they stand for.
        documents: Number of documents scored.
        coverage: Scored bytes over the bytes of the whole text.
        strategy: How it was made.
        document_ids: Positions in the text of the documents in `document_nats`.
        document_nats: What the score claims for each document. Empty for a stream, whose windows cross documents.
    """

    metric: Literal["bpb", "subset_bpb"]
    bpb: float
    nats_per_token: float
    nats_per_byte: float
    total_nats: float
    tokens: int
    bytes: int
    documents: int
    coverage: float
    strategy: Strategy
    document_ids: tuple[int, ...]
    document_nats: tuple[float, ...]

    def claimed_nats(self, document_ids: tuple[int, ...]) -> float:
        """Add up what the score claims for some of its documents.

        Raises:
            LegalityError: the score makes no claim about one of them.
        """
        claims = dict(zip(self.document_ids, self.document_nats, strict=True))
        missing = [document for document in document_ids if document not in claims]
        if missing:
            raise LegalityError(f"the score makes no claim about document {missing[0]}: score it by document first")
        return math.fsum(claims[document] for document in document_ids)


class ScoreLedger:
    """Collects nats for the targets of several tracks; refuses what would make the score a fiction.

    A mixture is charged in place of the model: as the books are closed it goes through the targets in their order.
    """

    def __init__(self, tracks: list[Track], mixture: NgramConfig | None = None) -> None:
        self._tracks = tracks
        self._mixture = mixture
        self._nats = [np.zeros(len(track.targets)) for track in tracks]
        self._scored = [np.zeros(len(track.targets), dtype=bool) for track in tracks]

    def commit(self, track: int, start: int, nats: Float64[np.ndarray, " N"]) -> None:
        """Enter the nats of targets `start, start + 1, ...` of a track, for good.

        Raises:
            LegalityError: a target has been scored before, or a value is no `-log p` of a probability.
        """
        span = slice(start, start + len(nats))
        assert span.stop <= len(self._nats[track]), "more nats than targets"
        if self._scored[track][span].any():
            again = start + int(self._scored[track][span].argmax())
            raise LegalityError(f"sequence {track}, target {again}: scored twice")
        bad = ~(np.isfinite(nats) & (nats >= MOST_NEGATIVE_NATS))
        if bad.any():
            place = int(bad.argmax())
            raise LegalityError(f"sequence {track}, target {start + place}: {nats[place]} is not -log of a probability")
        self._nats[track][span] = nats
        self._scored[track][span] = True

    def scored(self, track: int, start: int, stop: int) -> Scored:
        """Give the tokens of targets that have been charged, for whoever learns from them.

        Raises:
            LegalityError: one of them has not.
        """
        charged = self._scored[track][start:stop]
        if not charged.all():
            raise LegalityError(f"sequence {track}, target {start + int(charged.argmin())}: learned before scored")
        inputs, targets, _ = self._tracks[track]
        return Scored(inputs[start:stop].astype(np.int64), targets[start:stop].astype(np.int64))

    def finish(self, documents: Documents, strategy: Strategy, *, whole: bool = True) -> Score:
        """Close the books over the documents that the tracks were made from.

        Unless the `whole` is asked for, scoring may have stopped early; the score is then of the targets up to there.

        Raises:
            LegalityError: a target was passed over, or the charged bytes are not the documents' bytes.
        """
        self._check_no_gap(whole=whole)
        whole = all(scored.all() for scored in self._scored)
        num_bytes = sum(
            int(track.byte_lengths[scored].sum()) for track, scored in zip(self._tracks, self._scored, strict=True)
        )
        if whole and num_bytes != documents.num_bytes:
            raise LegalityError(f"charged {num_bytes} bytes for documents of {documents.num_bytes} bytes")
        if not num_bytes:
            raise LegalityError(f"{len(documents.ids)} documents without a byte: no bits per byte")
        tokens = sum(int(scored.sum()) for scored in self._scored)
        nats = [float(track_nats.sum()) for track_nats in self._charged(documents.tokenizer.vocab_size)]
        total_nats = math.fsum(nats)
        complete = [place for place, scored in enumerate(self._scored) if scored.all()]
        claims = complete if strategy.unit == "document" else []
        return Score(
            metric="bpb" if num_bytes == documents.text_bytes and whole else "subset_bpb",
            bpb=bits_per_byte(total_nats, num_bytes),
            nats_per_token=total_nats / tokens,
            nats_per_byte=total_nats / num_bytes,
            total_nats=total_nats,
            tokens=tokens,
            bytes=num_bytes,
            documents=len(complete) if strategy.unit == "document" else len(documents.ids),
            coverage=num_bytes / documents.text_bytes,
            strategy=strategy,
            document_ids=tuple(documents.ids[place] for place in claims),
            document_nats=tuple(nats[place] for place in claims),
        )

    def _charged(self, vocab_size: int) -> Iterator[Float64[np.ndarray, " N"]]:
        """Give the nats of each track as they are charged, up to where it is scored."""
        ngram = Ngram(self._mixture, vocab_size) if self._mixture else None
        for track, track_nats, scored in zip(self._tracks, self._nats, self._scored, strict=True):
            stop = int(scored.sum())  # there is no gap
            nats = track_nats[:stop]
            if ngram:
                ngram.begin()
                nats = ngram.mix(track.inputs[:stop], track.targets[:stop], nats)
            yield nats

    def _check_no_gap(self, *, whole: bool) -> None:
        """Refuse a target that was not scored: any, or one with a scored target behind it."""
        scored = np.concatenate(self._scored)
        if scored.all():
            return
        first = int(scored.argmin())
        if whole or scored[first:].any():
            starts = np.cumsum([0, *map(len, self._scored)])
            index = int(starts.searchsorted(first, side="right")) - 1
            raise LegalityError(f"sequence {index}, target {first - int(starts[index])}: never scored")
