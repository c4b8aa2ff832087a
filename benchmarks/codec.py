"""Real bytes and seconds of the coders, on integers like weights' codes and on the codes of trained weights.

    python benchmarks/codec.py [--json] [--samples 2000000] [--repeats 5] [--weights runs/demo/weights.safetensors]

Sources: normal codes at three steps; normal and heavy-tailed rows (Student t, 5 degrees of freedom) as int6 whose range
ends at the largest magnitude of each row; rows, and rows and columns, of different deviation under one common step; and
levels of a trellis at 0.22 standard deviations. With `--weights`, the matrices of a file are sources too, rounded and
by a trellis of 8 states, on `rate` at 3 bits a weight (or `--rate`).

Beside the bits stands the entropy: of the histogram of all codes, for levels given the subset, and a path bit each.
Seconds are processor seconds, the median of the repeats. A coder's ratios to the source's first coder are taken within
each repeat, and their median is given: the machine's other work then falls on both.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from nutshell.codec.chain import Chain, decode, encode
from nutshell.codec.trellis_code import subsets
from nutshell.quant.config import RtnConfig, TrellisConfig
from nutshell.quant.grids import RateGrid
from nutshell.quant.precision import Precision
from nutshell.quant.quantizing import quantize
from nutshell.train.checkpoint import read_tensors

Arrays = list[np.ndarray]
BYTES: tuple[Chain, ...] = (("brotli",), ("lzma",), ("zstd",))
PLAIN: tuple[Chain, ...] = (
    ("ans",),
    ("transpose", "ans"),
    *BYTES,
    ("bitplanes", "brotli"),
    ("transpose", "brotli"),
    ("sort_rows", "brotli"),
)
TRELLIS: tuple[Chain, ...] = (("trellis8",), ("ans",), *BYTES)
ROW, STATES = 512, 8


def sources(num_samples: int) -> dict[str, tuple[Arrays, tuple[Chain, ...]]]:
    """Draw the codes to compress, in rows of 512, and say by which chains."""
    rng = np.random.default_rng(0)
    shape = (num_samples // ROW, ROW)
    normal, heavy = rng.standard_normal(shape), rng.standard_t(5, shape)
    rows, columns = rng.lognormal(0, 0.5, (len(normal), 1)), rng.lognormal(0, 0.5, (1, ROW))
    path = rng.integers(0, 2, shape).astype(np.uint8)
    plain = {
        **{f"normal, step {step} sigma": round_codes(normal / step) for step in (0.4145, 0.8, 0.1575)},
        "normal, int6 absmax rows": absmax_codes(normal),
        "Student t5, int6 absmax rows": absmax_codes(heavy),
        "rows of many sigmas, one step": round_codes(normal * rows * 3),
        "rows and columns of many sigmas": round_codes(normal * rows * columns * 3),
    }
    drawn = {name: ([codes], PLAIN) for name, codes in plain.items()}
    return {**drawn, "levels of a trellis, 0.22 sigma": ([levels(normal / 0.22, path)], TRELLIS)}


def weight_sources(path: Path, rate_bits: float) -> dict[str, tuple[Arrays, tuple[Chain, ...]]]:
    """Quantize the matrices of a file in two ways."""
    matrices = [weight for weight in read_tensors(path)[0].values() if weight.ndim == 2]
    rules = {
        "trained weights, rounded": (RtnConfig(roles=(), grid=RateGrid()), PLAIN),
        "trained weights, trellis": (TrellisConfig(roles=(), grid=RateGrid(), states=STATES), TRELLIS),
    }
    return {
        name: ([quantize(weight, rule, precision=Precision(rate_bits)).codes for weight in matrices], chains)
        for name, (rule, chains) in rules.items()
    }


def levels(wanted: np.ndarray, path: np.ndarray) -> np.ndarray:
    """Round each number to the nearest level of the subset that the path leaves it."""
    of_subset = subsets(path, STATES).astype(np.int64)
    return (of_subset + 4 * np.rint((wanted - of_subset) / 4)).astype(np.int8)


def absmax_codes(weight: np.ndarray) -> np.ndarray:
    """Quantize each row to -31..31."""
    return round_codes(weight * (31 / np.abs(weight).max(axis=1, keepdims=True)))


def round_codes(weight: np.ndarray) -> np.ndarray:
    """Quantize with step 1."""
    return np.rint(weight).clip(-128, 127).astype(np.int8)


def entropy_bits(arrays: Arrays, chains: tuple[Chain, ...]) -> float:
    """Entropy a code of each array's histogram; of levels given their subset, and one bit for the path."""
    num_subsets = 4 if chains is TRELLIS else 1
    bits = 0.0
    for array in arrays:
        codes = array.ravel().astype(np.int64) - int(array.min())
        for subset in range(num_subsets):
            counts = np.bincount(codes[codes % num_subsets == subset])
            counts = counts[counts > 0]
            bits += float(counts @ np.log2(counts.sum() / counts))
    return bits / sum(array.size for array in arrays) + (num_subsets > 1)


def measure(arrays: Arrays, chains: tuple[Chain, ...], repeats: int) -> dict[str, dict[str, float]]:
    """Bits a code and seconds of each chain, and ratios to the first chain."""
    num_codes = sum(array.size for array in arrays)
    encoding: dict[Chain, list[float]] = {chain: [] for chain in chains}
    decoding: dict[Chain, list[float]] = {chain: [] for chain in chains}
    bits = {}
    for _ in range(repeats):
        for chain in chains:
            seconds, payloads = timed(lambda chain=chain: [encode(array, chain) for array in arrays])
            encoding[chain].append(seconds)
            pairs = list(zip(payloads, arrays, strict=True))
            seconds, restored = timed(
                lambda chain=chain, pairs=pairs: [
                    decode(payload, chain, array.dtype, array.shape) for payload, array in pairs
                ]
            )
            decoding[chain].append(seconds)
            assert all(np.array_equal(*pair) for pair in zip(restored, arrays, strict=True))
            bits[chain] = 8 * sum(map(len, payloads)) / num_codes
    return {
        "+".join(chain): {
            "bits": bits[chain],
            "encode_seconds": statistics.median(encoding[chain]),
            "decode_seconds": statistics.median(decoding[chain]),
            "decode_ns_a_code": 1e9 * statistics.median(decoding[chain]) / num_codes,
            "encode_ratio": paired_ratio(encoding, chain),
            "decode_ratio": paired_ratio(decoding, chain),
        }
        for chain in chains
    }


def timed(work: Callable[[], list]) -> tuple[float, list]:
    """Do something, and give the processor seconds that it took."""
    start = time.process_time()
    result = work()
    return time.process_time() - start, result


def paired_ratio(seconds: Mapping[Chain, list[float]], chain: Chain) -> float:
    """Median over the repeats of a chain's seconds over those of the first in the same repeat."""
    first = next(iter(seconds.values()))
    return statistics.median(own / base for own, base in zip(seconds[chain], first, strict=True))


def main() -> None:
    """Print a table, or one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--samples", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--rate", type=float, default=3.0)
    options = parser.parse_args()
    drawn = sources(options.samples) if options.samples else {}
    trained = weight_sources(options.weights, options.rate) if options.weights else {}
    results = {
        name: {"entropy_bits": entropy_bits(arrays, chains), "chains": measure(arrays, chains, options.repeats)}
        for name, (arrays, chains) in {**drawn, **trained}.items()
    }
    if options.json:
        print(json.dumps(results))
        return
    print(f"{'codes':32} {'chain':18} {'bits':>7} {'encode':>8} {'decode':>8} {'ns':>6} {'encode':>7} {'decode':>7}")
    for name, result in results.items():
        print(f"{name:32} {'entropy':18} {result['entropy_bits']:7.4f}")
        for chain, row in result["chains"].items():
            print(
                f"{name:32} {chain:18} {row['bits']:7.4f} {row['encode_seconds']:7.3f}s {row['decode_seconds']:7.3f}s "
                f"{row['decode_ns_a_code']:6.1f} {row['encode_ratio']:6.2f}x {row['decode_ratio']:6.2f}x"
            )


if __name__ == "__main__":
    main()
