"""What changes over a run, as functions of one progress value in [0, 1]."""


def warmdown(progress: float, *, frac: float, floor: float) -> float:
    """Give the learning-rate multiplier: 1, then linear to `floor` over the last `frac` of the run."""
    if progress <= 1.0 - frac:
        return 1.0
    return max((1.0 - progress) / frac, 0.0) * (1.0 - floor) + floor


def ramp(progress: float, *, start: float, stop: float, frac: float) -> float:
    """Rise linearly from `start` to `stop` over the first `frac` of the run, then stay."""
    return stop if progress >= frac else start + (stop - start) * progress / frac
