"""How long a whole artifact of about 16 MB takes to load, by how its weights were packed.

    python benchmarks/load_artifact.py [--json] [--out results/load_artifact.json] [--artifacts DIR] [--repeats 5]

The model of sp8192-loop35, with normal weights whose rows and columns have scales of their own, packed by a trellis on
`slope` with drawn statistics, by a trellis on `rate`, and by the recipe's own rules: GPTQ, int6 and int8 by `sd_clip`.
Each artifact is loaded from bytes in a process of its own. Seconds are medians over the repeats after the first load,
which is given beside them: it has imports and memory to fetch. The decoders' share is that of processor seconds, from
decoding every section once more on one thread; turning the codes into weights, the quantizer's own decoding, is timed
beside it. Peak memory is what the first load adds to the largest resident set.

Artifacts are kept in `--artifacts` and not packed again: packing takes minutes, measuring half a minute of quiet.
"""

import json as json_module
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cyclopts import App

from nutshell.artifact.config import PackConfig
from nutshell.artifact.container import Container, unpack_container
from nutshell.artifact.load import load
from nutshell.artifact.pack import Contents, Packer, is_fitted, matrices_of
from nutshell.codec.coders import TRELLIS_CODERS
from nutshell.codec.planes import CodePlanes
from nutshell.config.loader import decode
from nutshell.data.bundled import BundledCorpus
from nutshell.data.tokenizer_training import train_tokenizer
from nutshell.files import write_json
from nutshell.machine import processor, versions
from nutshell.memory import peak_process_bytes
from nutshell.model.lm import LM
from nutshell.nn.params import ParamTable
from nutshell.quant import rtn, trellis
from nutshell.quant.quantizing import dequantize
from nutshell.quant.statistics import Statistics
from nutshell.recipe import resolve

app = App(help=__doc__)
RECIPE, RATE_BITS = "sp8192-loop35", 3.7
ROLES = ["matrix", "embedding"]
STACKS: dict[str, dict[str, Any] | None] = {
    "trellis, slope": {"kind": "trellis", "roles": ROLES, "states": 8, "feedback": True, "grid": {"kind": "slope"}},
    "trellis, rate": {"kind": "trellis", "roles": ROLES, "states": 8, "grid": {"kind": "rate"}},
    "gptq, sd_clip": None,  # the rules of the recipe
}


@app.default
def main(*, json: bool = False, out: Path | None = None, artifacts: Path | None = None, repeats: int = 5) -> None:
    """Pack what is not packed yet, and load each artifact."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = artifacts or Path(scratch)
        paths = {name: folder / f"{name.replace(', ', '-')}.nut" for name in STACKS}
        if missing := [name for name, path in paths.items() if not path.exists()]:
            _pack({name: paths[name] for name in missing})
        rows = [{"stack": name, **_in_a_process(path, repeats)} for name, path in paths.items()]
    report = {"recipe": RECIPE, "processor": processor(), "versions": versions(), "repeats": repeats, "rows": rows}
    if out:
        write_json(out, report)
    if json:
        print(json_module.dumps(report))
        return
    for row in rows:
        print(
            f"{row['stack']:<15} {row['bytes'] / 1e6:6.2f} MB  {row['wall_seconds']:.2f} s "
            f"(first {row['first_wall_seconds']:.2f}), processor {row['processor_seconds']:.2f} s, "
            f"decoders {row['decode_seconds']:.2f} s, codes to weights {row['dequantize_wall_seconds']:.2f} s, "
            f"peak +{row['peak_bytes'] / 1e6:.0f} MB"
        )


@app.command
def measure(path: Path, repeats: int) -> None:
    """Load one artifact in this process; prints one line of JSON."""
    content = path.read_bytes()
    before = peak_process_bytes()
    first = _timed(lambda: load(content))
    peak = peak_process_bytes() - before
    again = [_timed(lambda: load(content)) for _ in range(repeats)]
    decoding = [_timed(lambda: _decode(content)) for _ in range(repeats)]
    container = unpack_container(content)
    planes = _planes(container)
    dequantizing = [_timed(lambda: [dequantize(each) for each in planes]) for _ in range(repeats)]
    codes = [section for section in container.sections.values() if section.kind == "codes"]
    found = {
        "bytes": len(content),
        "bits_a_code": 8 * sum(len(each.payload) for each in codes) / sum(map(_num_items, codes)),
        "codes": sum(map(_num_items, codes)),
        "wall_seconds": statistics.median(wall for wall, _ in again),
        "first_wall_seconds": first[0],
        "processor_seconds": statistics.median(spent for _, spent in again),
        "decode_seconds": statistics.median(spent for _, spent in decoding),
        "decode_wall_seconds": statistics.median(wall for wall, _ in decoding),
        "dequantize_wall_seconds": statistics.median(wall for wall, _ in dequantizing),
        "peak_bytes": peak,
        "threads": torch.get_num_threads(),
    }
    print(json_module.dumps(found))


def _in_a_process(path: Path, repeats: int) -> dict[str, Any]:
    command = [sys.executable, __file__, "measure", str(path), str(repeats)]
    return json_module.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)


def _decode(content: bytes) -> None:
    for section in unpack_container(content).sections.values():
        section.decode()


def _planes(container: Container) -> list[CodePlanes]:
    """Decode the sections of all quantized weights."""
    names = [name for name, kind in container.sections if kind == "codes"]
    sections = list(container.sections.values())
    planes = []
    for name in names:
        codes = container.section(name, "codes")
        sides = {each.kind: each.decode() for each in sections if each.name == name and each is not codes}
        method = trellis.METHOD if codes.chain[-1] in TRELLIS_CODERS.values() else rtn.METHOD
        planes.append(CodePlanes(codes=codes.decode(), sides=sides, spec={"method": method}))
    return planes


def _timed(work: Callable[[], object]) -> tuple[float, float]:
    """Give wall and processor seconds."""
    wall, spent = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - spent


def _num_items(section: Any) -> int:
    return torch.Size(section.shape).numel()


def _pack(paths: dict[str, Path]) -> None:
    """Draw the model once and pack it by each stack."""
    resolved = resolve(RECIPE)
    recipe = resolved.recipe
    tokenizer = train_tokenizer(BundledCorpus(), vocab_size=recipe.model.vocab_size, sample_every=4).model_bytes
    with torch.device("meta"):
        table = ParamTable.of(LM(recipe.model, [recipe.final_schedule]))
    generator = torch.Generator().manual_seed(0)

    def spread(count: int, octaves: float) -> torch.Tensor:
        return torch.exp2(octaves * torch.randn(count, generator=generator))

    weights = {row.name: torch.randn(row.shape, generator=generator).mul_(0.02) for row in table}
    for weight in weights.values():
        if weight.ndim == 2:
            weight *= spread(weight.shape[0], 0.5)[:, None] * spread(weight.shape[1], 0.5)
    contents = Contents.of(weights, table, recipe=resolved.toml(), tokenizer=tokenizer)
    for name, path in paths.items():
        rule = STACKS[name]
        calibration = {"calibration": {"kind": "training"}} if rule and rule.get("feedback") else {}
        config = (
            recipe.pack
            if rule is None
            else decode({"budget_bytes": 16_000_000, "rules": [rule], **calibration}, PackConfig, where=name)
        )
        drawn = {
            matrix.name: Statistics(
                torch.diag(spread(matrix.weight.shape[1], 1.0).double()), spread(matrix.weight.shape[0], 1.5).double()
            )
            for matrix in matrices_of(contents, config, {})
            if matrix.rule.uses_statistics
        }
        packed = Packer(contents, config, drawn).pack(RATE_BITS if is_fitted(config) else None)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(packed.content)


if __name__ == "__main__":
    app()
