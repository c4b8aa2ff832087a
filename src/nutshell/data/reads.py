"""Which side of the split was read, and what for: what a training can show of itself (docs/audit.md, P6)."""

from nutshell.data.dataset import Dataset

CHECK = "check"
"""Hashes, ranges and overlap, before the first step: the one purpose for which a training may read validation text."""


class Reads:
    """Tokens that were read through a data set, by purpose and side.

    Attributes:
        tokens: so far, in the order of the purposes.
    """

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self.tokens: dict[str, dict[str, int]] = {}
        self._before = self._now()

    def done(self, purpose: str) -> None:
        """Say what the reads since the last call were for."""
        now = self._now()
        own = self.tokens.setdefault(purpose, dict.fromkeys(now, 0))
        for side, number in now.items():
            own[side] += number - self._before[side]
        self._before = now

    def _now(self) -> dict[str, int]:
        return {"train": self._dataset.train.num_read, "val": self._dataset.val.num_read}
