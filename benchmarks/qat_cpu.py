"""What quantization-aware training and penalties cost: a step of the demo recipe, on one thread.

    python benchmarks/qat_cpu.py [--recipe demo] [--rounds 10] [--out results/qat_cpu.json]

Forward and backward, uncompiled in fp32, of the plain model and of its twins, alternately on the same batch; the views
of all weights without a forward; and each penalty's value and gradient alone. Ratios are to the plain step of the same
round, the median over rounds. Fitted rules train for 4 bits a weight. A compiled bf16 step is shorter, and what is seen
of the weights is computed outside of its compiled regions: there the milliseconds count, not the ratio.
"""

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from cyclopts import App

from nutshell.artifact.config import PackConfig
from nutshell.files import write_json
from nutshell.machine import processor, versions
from nutshell.model.lm import LM
from nutshell.nn.kernels.cross_entropy import Smoothing, cross_entropy
from nutshell.nn.params import ParamTable
from nutshell.recipe import resolve
from nutshell.train.penalties import NuclearConfig, RateConfig
from nutshell.train.qat import NoiseConfig, SteConfig, quantized_twin

app = App(help=__doc__)
RATE_BITS = 4.0


@app.default
def main(*, recipe: str = "demo", rounds: int = 10, out: Path | None = None) -> None:
    """Measure one recipe."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    config = resolve(recipe).recipe
    model, schedule = LM(config.model, [config.final_schedule]), config.final_schedule
    model.init_weights(0)
    text = torch.randint(config.model.vocab_size, (config.train.batch_size, config.train.seq_len + 1))

    def step(model: LM) -> Callable[[], object]:
        inputs, targets = text[:, :-1], text[:, 1:].flatten()
        return lambda: cross_entropy(model(inputs, schedule).flatten(0, 1), targets, Smoothing()).objective.backward()

    def penalty(kind: NuclearConfig | RateConfig) -> Callable[[], object]:
        built = kind.build(ParamTable.of(model), config.pack.rules)
        return lambda: built(0).backward()

    def views(twin: LM) -> Callable[[], object]:
        return lambda: twin.stream(text[:1, :1], dtype=torch.float32, attend_kind="products")

    rate = _rate_bits(config.pack)
    ste, noise = (
        quantized_twin(model, [schedule], mode(rate_bits=rate), config.pack.rules) for mode in (SteConfig, NoiseConfig)
    )
    calls = {
        "plain": step(model),
        "ste": step(ste),
        "noise": step(noise),
        "ste views": views(ste),
        "noise views": views(noise),
        "rate": penalty(RateConfig(weight=0.01, rate_bits=rate)),
        "nuclear": penalty(NuclearConfig(weight=0.01, every=1)),
    }
    for call in calls.values():
        call()
    seconds = [{name: _seconds(call) for name, call in calls.items()} for _ in range(rounds)]
    rows = {
        name: {
            "seconds": statistics.median(row[name] for row in seconds),
            "ratio_to_plain": statistics.median(row[name] / row["plain"] for row in seconds),
        }
        for name in calls
    }
    for name, row in rows.items():
        print(f"{name:>11}: {1e3 * row['seconds']:8.1f} ms, {row['ratio_to_plain']:.3f} of the plain step")
    if out:
        facts = {"recipe": recipe, "processor": processor(), "versions": versions(), "threads": 1, "rounds": rounds}
        write_json(out, {**facts, "num_params": ParamTable.of(model).count(), **rows})


def _rate_bits(pack: PackConfig) -> float | None:
    return RATE_BITS if any(rule.bits is None for rule in pack.rules) else None


def _seconds(call: Callable[[], object]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


if __name__ == "__main__":
    app()
