"""The verb that fetches published data: alone, for it needs the hub's client, which not every install has."""

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import Parameter

from nutshell.errors import UsageError
from nutshell.report.tables import manifest_view
from nutshell.report.terminal import Terminal

try:
    from nutshell.data.fetch import fetch
except ModuleNotFoundError as error:
    if error.name not in ("huggingface_hub", "httpx2"):
        raise
    raise UsageError(f"data fetch needs {error.name}, which is not here: pip install 'nutshell-lm[hub]'") from error

Flag = Annotated[bool, Parameter(negative="")]


def data_fetch(
    export: str,
    *,
    out: Path,
    train_shards: int = 10,
    revision: str = "main",
    repo: str | None = None,
    allow_shared: Flag = False,
    json: Annotated[bool, Parameter(name="--json", negative="")] = False,
) -> None:
    """Fetch a published export of FineWeb from the Hugging Face hub.

    A fetch that was stopped goes on where it was; one that asks for more shards adds them.

    Args:
        export: sp1024, sp4096, sp8192 or caseops.
        out: folder to make.
        train_shards: how many training shards, the first ones; each is 100 million tokens, 200 MB.
        revision: branch, tag or commit of the repository.
        repo: a copy of the export's repository, OWNER/NAME.
        allow_shared: accept validation documents that are in the training text too.
        json: print the manifest as JSON.
    """
    terminal = Terminal(as_json=json)
    with terminal.stage("fetch", unit="bytes") as advance:
        dataset = fetch(
            export,
            out,
            train_shards=train_shards,
            revision=revision,
            repo=repo,
            allow_shared=allow_shared,
            progress=advance,
        )
    terminal.result(msgspec.to_builtins(dataset.manifest), manifest_view)
