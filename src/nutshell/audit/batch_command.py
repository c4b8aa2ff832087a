"""A scorer that is a program and gets the whole stream at once, as published evaluation scripts do."""

import shlex
import subprocess
import tempfile
from pathlib import Path

import numpy as np

from nutshell.audit.subjects import Batch, Stream
from nutshell.data.shards import write_shard
from nutshell.errors import PredictorError
from nutshell.printable import show_controls

SHARD = "nutshell_val_000000.bin"


def batch_command(command: str, *, vocab_size: int, bos_id: int, independent: bool = False, timeout: float) -> Batch:
    """Audit a program that is given a folder with a shard of validation tokens, and prints a number for each target.

    The folder is its last argument, the shard in it is `SHARD`. Lines of the form `bytes N` and
    `bpb X` say what it counted and what it makes of it; other lines that are no numbers are passed over.
    """

    def run(tokens: Stream) -> tuple[np.ndarray, int | None, float | None]:
        with tempfile.TemporaryDirectory() as folder:
            write_shard(Path(folder) / SHARD, tokens.astype(np.uint16))
            return _printed(_output(command, folder, timeout))

    return Batch(run, vocab_size=vocab_size, bos_id=bos_id, independent=independent)


def _output(command: str, folder: str, timeout: float) -> str:
    try:
        arguments = shlex.split(command)
        done = subprocess.run([*arguments, folder], check=False, capture_output=True, timeout=timeout)
    except (ValueError, OSError) as error:
        raise PredictorError(f"--batch {command}: cannot start it ({error})") from error
    except subprocess.TimeoutExpired as error:
        raise PredictorError(f"the scorer has not ended within {timeout:g} s") from error
    if done.returncode:
        lines = done.stderr.decode("utf-8", errors="replace").strip().splitlines()
        said = f": {show_controls(lines[-1])}" if lines else ""
        raise PredictorError(f"the scorer ended with status {done.returncode}{said}")
    return done.stdout.decode("utf-8", errors="replace")


def _printed(text: str) -> tuple[np.ndarray, int | None, float | None]:
    """Read what a scorer printed: numbers, a line each, and maybe the bytes and the score."""
    nats: list[float] = []
    said: dict[str, float] = {}
    for line in text.splitlines():
        name, _, rest = line.strip().partition(" ")
        named = name in ("bytes", "bpb")
        try:
            value = float(rest if named else line)
        except ValueError:
            continue
        if named:
            said[name] = value
        else:
            nats.append(value)
    num_bytes = said.get("bytes")
    return np.array(nats), None if num_bytes is None else round(num_bytes), said.get("bpb")
