"""Where a step is: marks for whoever measures, which cost a call that does nothing where nobody does."""

from typing import Literal

StageName = Literal["data", "forward", "loss", "backward", "penalties", "optimizer", "average", "logging"]


class Stages:
    """Hears of the stages of each step; does nothing with that."""

    def begin(self, phase: int, schedule: str) -> None:
        """Hear that a step begins."""

    def done(self, stage: StageName) -> None:
        """Hear that what ran since the last mark was this stage; a stage may come several times in a step."""

    def end(self) -> None:
        """Hear that the step is over."""


UNWATCHED = Stages()
