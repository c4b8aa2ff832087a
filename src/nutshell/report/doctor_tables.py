"""What the doctor found, as people read it in a terminal."""

from collections.abc import Mapping
from typing import Any

from rich.console import Group, RenderableType

from nutshell.report.layout import new_facts, new_table, safe_text
from nutshell.units import format_bytes


def doctor_view(found: Mapping[str, Any]) -> RenderableType:
    """The machine, the paths of a training, and what is missing."""
    machine, paths = found["machine"], found["paths"]
    memory = "unknown" if machine["memory_bytes"] is None else format_bytes(machine["memory_bytes"])
    gpus = ", ".join(f"{gpu['name']} ({format_bytes(gpu['memory_bytes'])})" for gpu in machine["gpus"]) or "none"
    facts = {
        "processor": machine["processor"],
        "bf16": machine["bf16"] or "no instructions for it",
        "cores": f"{machine['cores']}, {paths['threads']} threads",
        "memory": memory,
        "free disk": format_bytes(machine["free_disk_bytes"]),
        "GPUs": gpus,
        "CUDA": machine["cuda"] or "none in this torch",
        "C++ compiler": machine["compiler"] or "none",
        "versions": ", ".join(f"{name} {version}" for name, version in found["versions"].items()),
        f"{found['recipe']} trains on": f"{paths['device']}, {paths['compute_dtype']}, attention {paths['attention']}",
        "compiled": paths["compiled_scope"] or "no",
        "loss": paths["loss"],
        "training state": f"{format_bytes(found['state_bytes'])} at most, activations on top",
    }
    if not found["missing"]:
        return Group(new_facts(facts), "", safe_text("nothing is missing", "good"))
    table = new_table("missing", "what it means", "what to do", words=["what it means", "what to do"])
    for row in found["missing"]:
        table.add_row(safe_text(row["what"], "bad" if row["needed"] else "unsure"), row["says"], row["remedy"])
    return Group(new_facts(facts), "", table)
