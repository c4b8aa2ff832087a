"""Conversions between nats, bits and bytes: the only place that says log 2.

A score is total bits over total bytes, divided once. Sizes are decimal: 1 MB is 1,000,000 bytes.
"""

import math

NATS_PER_BIT = math.log(2.0)


def bits_from_nats(nats: float) -> float:
    """Convert a code length in nats to bits."""
    return nats / NATS_PER_BIT


def nats_from_bits(bits: float) -> float:
    """Convert a code length in bits to nats."""
    return bits * NATS_PER_BIT


def bits_per_byte(total_nats: float, total_bytes: int) -> float:
    """Divide a whole text's code length by its bytes.

    Raises:
        ValueError: there are no bytes to divide by.
    """
    if total_bytes <= 0:
        raise ValueError(f"bits per byte need at least one byte of text, got {total_bytes}")
    return bits_from_nats(total_nats) / total_bytes


def format_bytes(num_bytes: float) -> str:
    """Write a size for people: exact below 10 kB, then three digits with a decimal unit."""
    if num_bytes < 10_000:
        return f"{num_bytes:,.0f} B"
    for unit, factor in (("kB", 1e3), ("MB", 1e6), ("GB", 1e9)):
        value = num_bytes / factor
        if value < 1000 or unit == "GB":
            return f"{value:.3g} {unit}" if value < 100 else f"{value:.0f} {unit}"
    raise AssertionError("unreachable: the last unit always returns")


def format_seconds(seconds: float) -> str:
    """Write a duration for people: `0.42 s`, `38 s`, `4 min 20 s`, `2 h 05 min`."""
    if seconds < 10:
        return f"{seconds:.2g} s"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 100:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min"
