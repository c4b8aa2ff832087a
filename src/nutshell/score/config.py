"""What a recipe says about scoring and proving."""

from typing import Literal

from nutshell.config.struct import Config


class ScoreConfig(Config, frozen=True):
    """Windows advance by `stride` targets; their length is the window the model was trained with.

    `sliding` windows are read anew, `rolling` ones go on from what they share with the one before.
    """

    stride: int
    windows: Literal["sliding", "rolling"] = "sliding"

    def __post_init__(self) -> None:
        if self.stride < 1:
            raise ValueError(f"stride must be at least 1, got {self.stride}")


# What is proved unless told.
PROVED_DOCUMENTS, PROVED_TOKENS = 8, 50_000


class ProveConfig(Config, frozen=True):
    """How much of the validation text a run proves: whole documents, chosen by hash, of at most `max_tokens` in all."""

    documents: int
    max_tokens: int

    def __post_init__(self) -> None:
        if self.documents < 1 or self.max_tokens < 1:
            raise ValueError("documents and max_tokens must be at least 1")
