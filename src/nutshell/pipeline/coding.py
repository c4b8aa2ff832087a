"""What codes the pieces of a proof with an artifact's model."""

from collections.abc import Iterator, Mapping

import torch

from nutshell.artifact.load import Loaded
from nutshell.errors import ProofError
from nutshell.pipeline.strategies import as_scored
from nutshell.score.layout import Layout
from nutshell.score.predictor import OnlinePredictor
from nutshell.score.prove import CoderHere, DocumentTokens
from nutshell.score.walk import Advance, Decoded


def online_predictor(loaded: Loaded, layout: Layout) -> OnlinePredictor:
    """Make what a layout's strategy predicts with.

    Raises:
        RecipeError: it is no strategy, or not one that the model can run.
        LegalityError: no decoder can follow it.
    """
    return as_scored(layout.strategy).online(loaded, layout.tokens)


class ArtifactCoder(CoderHere):
    """Codes with as many threads as the layout says, however many processors there are: others round otherwise.

    Raises, as it begins to code:
        ProofError: torch cannot compute with so many.
    """

    def __init__(self, loaded: Loaded) -> None:
        super().__init__(lambda layout: online_predictor(loaded, layout))

    def encode(
        self, layout: Layout, pieces: Mapping[int, DocumentTokens], advance: Advance
    ) -> Iterator[tuple[int, bytes]]:
        """Code the documents of each piece."""
        compute_with(layout.threads)
        return super().encode(layout, pieces, advance)

    def decode(self, layout: Layout, pieces: Mapping[int, bytes], advance: Advance) -> Iterator[tuple[int, Decoded]]:
        """Read the bits of each piece."""
        compute_with(layout.threads)
        return super().decode(layout, pieces, advance)


def compute_with(threads: int) -> None:
    """Set the threads of the arithmetic.

    Raises:
        ProofError: torch does not take so many.
    """
    torch.set_num_threads(threads)
    if torch.get_num_threads() != threads:
        raise ProofError(f"the proof was computed with {threads} threads, of which torch has {torch.get_num_threads()}")
