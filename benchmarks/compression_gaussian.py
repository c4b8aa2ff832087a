"""Quantizers and coders on normal samples: real bytes beside the rate-distortion bound.

The samples are a matrix of 2,000 rows under one step; all that a decoder needs is counted, as the artifact's sections
have it. A gap is bits a weight above R(D) = 0.5 log2(variance / mean square error).
"""

import json
import math
import time
from dataclasses import asdict, dataclass

import numpy as np
import torch

from nutshell.codec.chain import encode
from nutshell.codec.planes import CodePlanes
from nutshell.codec.trellis_code import POLYNOMIALS
from nutshell.quant.config import QuantRule, RtnConfig, TrellisConfig
from nutshell.quant.grids import SlopeGrid
from nutshell.quant.precision import Precision
from nutshell.quant.quantizing import dequantize, quantize

RATE_BITS = 3.0
TABLE_RATES = (2.0, 3.0, 4.5)
TABLE_RATE_WEIGHTS = (0.0, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
NUM_ROWS = 2_000


@dataclass(frozen=True)
class Measured:
    """One quantizer and coder on the samples."""

    quantizer: str
    coder: str
    rate_weight: float | None
    mse: float
    bits: float
    gap_bits: float
    quantize_seconds: float
    encode_seconds: float


def measure_all(num_samples: int, *, table: bool) -> dict:
    """Measure all numbers of states at 3 bits, and rounding; with `table`, other rates and weights."""
    samples = draw(num_samples)
    _warm_up()
    scalar = [measure_at_rate(samples, RtnConfig(roles=(), grid=SlopeGrid()), chain) for chain in ("ans", "brotli")]
    by_states = {count: measure_at_rate(samples, _trellis(count), f"trellis{count}") for count in POLYNOMIALS}
    best_states, best = min(by_states.items(), key=lambda pair: pair[1].gap_bits)
    return {
        "samples": samples.numel(),
        "gap_8_states_bits": by_states[8].gap_bits,
        "gap_best_bits": best.gap_bits,
        "best_states": best_states,
        "gap_scalar_ans_bits": scalar[0].gap_bits,
        "gap_scalar_brotli_bits": scalar[1].gap_bits,
        "results": [asdict(measured) for measured in (*scalar, *by_states.values())],
        **({"table": _table(samples[: NUM_ROWS // 5])} if table else {}),
    }


def show(report: dict) -> None:
    """Print a report as a table."""
    titles = ("rate weight", "MSE", "bits", "gap", "search", "coding")
    print(f"{'quantizer':12} {'coder':10}", *(f"{title:>{max(len(title), 8)}}" for title in titles))
    for row in report["results"] + report.get("table", []):
        weight = "" if row["rate_weight"] is None else row["rate_weight"]
        print(
            f"{row['quantizer']:12} {row['coder']:10} {weight:>11} {row['mse']:8.6f} {row['bits']:8.4f} "
            f"{row['gap_bits']:8.4f} {row['quantize_seconds']:7.2f}s {row['encode_seconds']:7.2f}s"
        )


def draw(num_samples: int) -> torch.Tensor:
    """Draw normal samples in rows."""
    return torch.randn(NUM_ROWS, num_samples // NUM_ROWS, generator=torch.Generator().manual_seed(0))


def measure_at_rate(samples: torch.Tensor, rule: QuantRule, coder: str) -> Measured:
    """Measure with the step that makes it 3 bits, real ones."""
    rate_bits = RATE_BITS
    for _ in range(2):
        rate_bits += RATE_BITS - measure(samples, rule, coder, rate_bits).bits
    return measure(samples, rule, coder, rate_bits)


def measure(samples: torch.Tensor, rule: QuantRule, coder: str, rate_bits: float) -> Measured:
    """Quantize and encode under one step for all samples."""
    start = time.perf_counter()
    planes = quantize(samples, rule, precision=Precision(rate_bits))
    quantized = time.perf_counter()
    bits = 8 * coded_bytes(planes, coder) / samples.numel()
    encoded = time.perf_counter()
    error = (samples - dequantize(planes)).double().square().mean()
    bound = 0.5 * math.log2(float(samples.double().square().mean() / error))
    return Measured(
        quantizer=f"{rule.states} states" if isinstance(rule, TrellisConfig) else "scalar",
        coder=coder,
        rate_weight=rule.rate_weight if isinstance(rule, TrellisConfig) else None,
        mse=float(error),
        bits=bits,
        gap_bits=bits - bound,
        quantize_seconds=quantized - start,
        encode_seconds=encoded - quantized,
    )


def coded_bytes(planes: CodePlanes, coder: str) -> int:
    """Count the bytes of codes, sides and spec."""
    sides = sum(min(len(encode(side, ("bits", "ans"))), side.nbytes) for side in planes.sides.values())
    return len(encode(planes.codes, (coder,))) + sides + len(json.dumps(dict(planes.spec)))


def _table(samples: torch.Tensor) -> list[dict]:
    """Measure at other rates and weights of the rate, on fewer samples."""
    return [
        asdict(measure(samples, _trellis(states, rate_weight), f"trellis{states}", rate_bits))
        for rate_bits in TABLE_RATES
        for states in POLYNOMIALS
        for rate_weight in TABLE_RATE_WEIGHTS
    ]


def _trellis(states: int, rate_weight: float | None = None) -> TrellisConfig:
    weight = {} if rate_weight is None else {"rate_weight": rate_weight}
    return TrellisConfig(roles=(), grid=SlopeGrid(), states=states, **weight)


def _warm_up() -> None:
    """Have the search compiled before the clock runs."""
    measure(torch.from_numpy(np.ones((8, 8), np.float32)), _trellis(8), "trellis8", RATE_BITS)
