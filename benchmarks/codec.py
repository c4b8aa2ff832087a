"""Real bytes and seconds of every coder on weight-like integers, beside the entropy of their histogram.

    python benchmarks/codec.py [--json] [--samples N]

Normal codes at three steps; normal and heavy-tailed rows (Student t, 5 degrees of freedom) as int6 whose range ends at
the largest magnitude of each row; and rows of different deviation under one common step.
"""

import argparse
import json
import time

import numpy as np

from nutshell.codec.chain import decode, encode, estimate_bytes

CODERS = ("ans", "brotli", "lzma")
ROW = 512


def sources(num_samples: int) -> dict[str, np.ndarray]:
    """Draw the codes to compress, in rows of 512."""
    rng = np.random.default_rng(0)
    shape = (num_samples // ROW, ROW)
    normal, heavy = rng.standard_normal(shape), rng.standard_t(5, shape)
    sigma = rng.lognormal(0, 0.5, (len(normal), 1))
    return {
        **{f"normal, step {step} sigma": round_codes(normal / step) for step in (0.4145, 0.8, 0.1575)},
        "normal, int6 absmax rows": absmax_codes(normal),
        "Student t5, int6 absmax rows": absmax_codes(heavy),
        "rows of many sigmas, one step": round_codes(normal * sigma * 3),
    }


def absmax_codes(weight: np.ndarray) -> np.ndarray:
    """Quantize each row to -31..31."""
    return round_codes(weight * (31 / np.abs(weight).max(axis=1, keepdims=True)))


def round_codes(weight: np.ndarray) -> np.ndarray:
    """Quantize with step 1."""
    return np.rint(weight).astype(np.int8)


def measure(codes: np.ndarray) -> dict[str, dict[str, float]]:
    """Bits a code and seconds of each coder, and the entropy of all codes together."""
    counts = np.bincount(codes.ravel().astype(np.int64) + 128)
    counts = counts[counts > 0]
    rows = {"entropy": {"bits": float(counts @ np.log2(codes.size / counts)) / codes.size}}
    for coder in CODERS:
        start = time.perf_counter()
        payload = encode(codes, (coder,))
        encoded = time.perf_counter()
        restored = decode(payload, (coder,), codes.dtype, codes.shape)
        decoded = time.perf_counter()
        assert np.array_equal(restored, codes)
        rows[coder] = {
            "bits": 8 * len(payload) / codes.size,
            "estimated_bits": 8 * estimate_bytes(codes, (coder,)) / codes.size,
            "encode_seconds": encoded - start,
            "decode_seconds": decoded - encoded,
        }
    return rows


def main() -> None:
    """Print a table, or one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--samples", type=int, default=2_000_000)
    options = parser.parse_args()
    results = {name: measure(codes) for name, codes in sources(options.samples).items()}
    if options.json:
        print(json.dumps(results))
        return
    print(f"{'codes':32} {'coder':8} {'bits':>7} {'estimate':>8} {'encode':>8} {'decode':>8}")
    for name, rows in results.items():
        for coder, row in rows.items():
            seconds = [f"{row[key]:7.3f}s" if key in row else " " * 8 for key in ("encode_seconds", "decode_seconds")]
            estimate = f"{row['estimated_bits']:8.4f}" if "estimated_bits" in row else " " * 8
            print(f"{name:32} {coder:8} {row['bits']:7.4f} {estimate} {' '.join(seconds)}")


if __name__ == "__main__":
    main()
