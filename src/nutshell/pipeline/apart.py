"""A verb of nutshell on its own: in a folder that holds what it was given, and without a network where that can be had.

Linux lets a process give up the network for a namespace of its own; containers often forbid even that.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

_UNSHARE = ("unshare", "--user", "--map-root-user", "--net")
_KEPT = ("PATH", "PYTHONPATH", "LANG")
_NOBODY = "http://127.0.0.1:9"  # a port at which nobody answers, for what would go through a proxy


class Done(NamedTuple):
    """What a process left behind, and whether it had no network."""

    status: int
    out: bytes
    err: bytes
    without_network: bool


def run_apart(arguments: Sequence[str], folder: Path) -> Done:
    """Run a verb in a folder, which is its home, too."""
    environment = {name: os.environ[name] for name in _KEPT if name in os.environ}
    environment |= {"HOME": str(folder), "http_proxy": _NOBODY, "https_proxy": _NOBODY}
    prefix = _UNSHARE if _is_allowed() else ()
    done = subprocess.run(
        [*prefix, sys.executable, "-m", "nutshell", *arguments],
        check=False,
        capture_output=True,
        cwd=folder,
        env=environment,
    )
    return Done(done.returncode, done.stdout, done.stderr, without_network=bool(prefix))


def _is_allowed() -> bool:
    if not shutil.which(_UNSHARE[0]):
        return False
    return subprocess.run([*_UNSHARE, "true"], check=False, capture_output=True).returncode == 0
