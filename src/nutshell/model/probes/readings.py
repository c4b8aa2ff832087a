"""What a probe found, as plain data; formulae and reading in `docs/probes.md`."""

import msgspec
from torch import Tensor


def rms(x: Tensor) -> float:
    """Give the root mean square of all elements."""
    return x.detach().double().square().mean().sqrt().item()


class Summary(msgspec.Struct, frozen=True):
    """Mean, standard deviation and root mean square of the elements of a tensor."""

    mean: float
    std: float
    rms: float

    @classmethod
    def of(cls, value: Tensor) -> "Summary":
        wide = value.detach().double()
        return cls(wide.mean().item(), wide.std(correction=0).item(), rms(wide))


class BranchReading(msgspec.Struct, frozen=True, kw_only=True):
    """What a branch did at a visit.

    Attributes:
        output_rms: RMS of what it gave to the residual rule.
        gain: That over the RMS of what it read of the stream.
        scale_rms: RMS over channels of the factor on its output, all output techniques together.
        shift_rms: RMS over channels of what they add.
    """

    output_rms: float
    gain: float
    scale_rms: float
    shift_rms: float


class VisitReading(msgspec.Struct, frozen=True, kw_only=True):
    """One virtual layer.

    Attributes:
        index: Place in the unrolled stack; `block` and `iteration` are its lasting name.
        stream_rms: RMS of the stream as the visit ended.
        update_rms: RMS of the stream as it ended less the stream as it began.
        kept: The factor on the stream while both branches are silent, over channels.
        attention: Its attention; `mlp` its MLP.
        cosine: Mean over tokens of the cosine between the streams after this visit and after the block's last one.
        update_cosine: The same between what the two visits added to the stream.
        gradient_norm: Euclidean norm of the loss's gradient by the stream as the visit ended.
        jacobian_norm: Most that the visit stretches a small error in the stream; None if it was not asked for.
        values: What techniques say of the visit.
    """

    index: int
    block: int
    iteration: int
    stream_rms: float
    update_rms: float
    kept: Summary
    attention: BranchReading
    mlp: BranchReading
    cosine: float | None
    update_cosine: float | None
    gradient_norm: float
    jacobian_norm: float | None
    values: dict[str, Summary]


class RepeatReading(msgspec.Struct, frozen=True, kw_only=True):
    """A block that runs more than once.

    Attributes:
        block: Its number.
        spread: By value, RMS over channels of the standard deviation over its visits; 0 where they share the weights.
        spectral_norms: By matrix that its visits share, the largest singular value.
    """

    block: int
    spread: dict[str, float]
    spectral_norms: dict[str, float]


class PartReading(msgspec.Struct, frozen=True, kw_only=True):
    """Parameters of one part of the model: Euclidean norms of the weights, and of the loss's gradient by them."""

    weight_norm: float
    gradient_norm: float


class RetentionReading(msgspec.Struct, frozen=True, kw_only=True):
    """Mean over channels of the product of `kept` over visits: of each pass over the repeated blocks, and of all."""

    passes: list[float]
    whole: float


class Reading(msgspec.Struct, frozen=True, kw_only=True):
    """What one probe found; `loss` is in nats a token over the probe's `tokens`."""

    schedule: str
    tokens: int
    loss: float
    visits: list[VisitReading]
    repeats: list[RepeatReading]
    retention: RetentionReading
    skips: dict[str, dict[str, Summary]]
    parts: dict[str, PartReading]


class VisitDrift(msgspec.Struct, frozen=True, kw_only=True):
    """How far the packed model's stream is from the trained one's after a virtual layer.

    Attributes:
        index: Place in the unrolled stack; `block` and `iteration` are its lasting name.
        error: Euclidean norm of the difference over that of the trained model's stream.
        cosine: Mean over tokens of the cosine between the two streams.
        growth: The error over that after the block's visit before; None at its first.
    """

    index: int
    block: int
    iteration: int
    error: float
    cosine: float
    growth: float | None


class PassDrift(msgspec.Struct, frozen=True, kw_only=True):
    """The error as a pass over the repeated blocks ends, and that over the one of the pass before."""

    number: int
    error: float
    growth: float | None


class DriftReading(msgspec.Struct, frozen=True, kw_only=True):
    """What packing changed; losses in nats a token, `input_error` that of the embedded tokens."""

    exact_loss: float
    packed_loss: float
    input_error: float
    visits: list[VisitDrift]
    passes: list[PassDrift]


class PassReading(msgspec.Struct, frozen=True, kw_only=True):
    """A loop that ends after so many passes.

    Attributes:
        passes: How many; `schedule` is the whole model with them.
        loss: In nats a token.
        increment: RMS of what the last of them changed in the stream; None for the first pass.
        delta: Mean over sequences of that relative to the RMS of the stream before it.
        ratio: Delta over that of the pass before.
    """

    passes: int
    schedule: str
    loss: float
    increment: float | None
    delta: float | None
    ratio: float | None


class StopReading(msgspec.Struct, frozen=True, kw_only=True):
    """Every sequence stopped by itself, after its first pass with a relative change below `eps`.

    Attributes:
        eps: The bound.
        loss: In nats a token, each sequence's after the passes that it ran.
        mean_passes: Over sequences; `fewest` and `most` are the ends of their range.
        unmet: Sequences that never fell below, and ran all passes.
    """

    eps: float
    loss: float
    mean_passes: float
    fewest: int
    most: int
    unmet: int


class LoopReading(msgspec.Struct, frozen=True, kw_only=True):
    """A loop by its passes, and where it could stop."""

    loop: str
    sequences: int
    passes: list[PassReading]
    stops: list[StopReading]
