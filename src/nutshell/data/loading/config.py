"""The order in which training reads its text, as a recipe chooses it; `docs/data.md` compares the kinds.

Sources: the sequential reader of modded-nanogpt; the coprime strides of parameter-golf PR 726; the windows shuffled in
each shard of its PR 1394.
"""

from typing import Literal

from nutshell.config.struct import Kind

Align = Literal["stream", "documents"]
"""Where rows may begin: anywhere, as if the documents were one text; or at a BOS, with what that takes (`cuts.py`)."""


class RingConfig(Kind, frozen=True, tag="ring"):
    """Windows of all the text as a ring; each epoch draws the phase at which they begin, and their order."""

    align: Align = "stream"


class SequentialConfig(Kind, frozen=True, tag="sequential"):
    """The text from end to end, again and again; under `start = "first"`, as published, in one order for all seeds."""

    align: Align = "stream"
    start: Literal["drawn", "first"] = "drawn"


class ShuffledConfig(Kind, frozen=True, tag="shuffled"):
    """Windows that stay inside their shard, from a phase drawn for each shard and epoch, all in one drawn order."""

    align: Align = "stream"


class CoprimeConfig(Kind, frozen=True, tag="coprime"):
    """Each shard's windows by a drawn stride that reaches them all, shards interleaved at random.

    `shards_at_once` finishes so many shards before it opens others, so that only theirs need to be in memory; without
    it all are mixed.
    """

    align: Align = "stream"
    shards_at_once: int | None = None

    def __post_init__(self) -> None:
        if self.shards_at_once is not None and self.shards_at_once < 1:
            raise ValueError(f"shards_at_once must be at least 1, got {self.shards_at_once}")


LoaderConfig = RingConfig | SequentialConfig | ShuffledConfig | CoprimeConfig
