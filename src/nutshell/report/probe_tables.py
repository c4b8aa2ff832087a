"""A probe as people read it in a terminal; `docs/probes.md` says what the columns mean."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table

from nutshell.printable import show_controls
from nutshell.report.layout import new_facts, new_table, safe_text


def probe_view(reading: Mapping[str, Any]) -> RenderableType:
    """The stream and the branches by visit, then values, shared matrices, skips and parameters."""
    visits: Sequence[Mapping[str, Any]] = reading["visits"]
    tables = [
        _stream(visits),
        _branches(visits),
        _values(visits, reading["repeats"]),
        _matrices(reading["repeats"]),
        _skips(reading["skips"]),
        _parts(reading["parts"]),
        *_drift(reading["quantization"]),
        *(table for loop in reading["early_stop"] or [] for table in _early_stop(loop)),
    ]
    parts: list[RenderableType] = [_facts(reading)]
    for table in tables:
        if table.row_count:
            parts += ["", table]
    return Group(*parts)


def _facts(reading: Mapping[str, Any]) -> Table:
    retention = reading["retention"]
    facts = {
        "schedule": reading["schedule"],
        "loss": f"{_number(reading['loss'])} nats/token over {reading['tokens']:,} tokens",
        "retention": f"{_number(retention['whole'])} over all visits",
    }
    if retention["passes"]:
        facts["of each pass"] = ", ".join(map(_number, retention["passes"]))
    if moved := reading["quantization"]:
        facts["before packing"] = f"{_number(moved['exact_loss'])} nats/token; embedded tokens off by " + _number(
            moved["input_error"]
        )
    if reading["trained_schedule"] != reading["schedule"]:
        facts["schedule"] += f", trained as {reading['trained_schedule']}"
    return new_facts(facts)


def _stream(visits: Sequence[Mapping[str, Any]]) -> Table:
    columns = ["block", "iteration", "stream RMS", "update RMS", "kept", "cosine", "update cosine", "gradient"]
    stretched = any(visit["jacobian_norm"] is not None for visit in visits)
    table = new_table("visit", *columns, *(["stretch"] if stretched else []))
    for visit in visits:
        read = [visit["stream_rms"], visit["update_rms"], visit["kept"]["mean"], visit["cosine"]]
        read += [visit["update_cosine"], visit["gradient_norm"], *([visit["jacobian_norm"]] if stretched else [])]
        table.add_row(str(visit["index"]), str(visit["block"]), str(visit["iteration"]), *map(_number, read))
    return table


def _branches(visits: Sequence[Mapping[str, Any]]) -> Table:
    names = {"output_rms": "RMS", "gain": "gain", "scale_rms": "scale", "shift_rms": "shift"}
    table = new_table("visit", *(f"{branch} {short}" for branch in ("attention", "MLP") for short in names.values()))
    for visit in visits:
        read = [visit[branch][name] for branch in ("attention", "mlp") for name in names]
        table.add_row(str(visit["index"]), *map(_number, read))
    return table


def _values(visits: Sequence[Mapping[str, Any]], repeats: Sequence[Mapping[str, Any]]) -> Table:
    """Show each value's range over the visits that name it, and its widest spread between the visits of one block."""
    table = new_table("value", "visits", "mean from", "to", "RMS from", "to", "spread in a block")
    for name in dict.fromkeys(name for visit in visits for name in visit["values"]):
        said = [visit["values"][name] for visit in visits if name in visit["values"]]
        spreads = [repeat["spread"][name] for repeat in repeats if repeat["spread"].get(name) is not None]
        ends = [end for key in ("mean", "rms") for end in _range([value[key] for value in said])]
        table.add_row(safe_text(name), str(len(said)), *ends, _number(max(spreads, default=None)))
    return table


def _matrices(repeats: Sequence[Mapping[str, Any]]) -> Table:
    names = list(dict.fromkeys(name for repeat in repeats for name in repeat["spectral_norms"]))
    table = new_table("spectral norms, block", *map(show_controls, names))
    for repeat in repeats if names else []:
        table.add_row(str(repeat["block"]), *(_number(repeat["spectral_norms"].get(name)) for name in names))
    return table


def _skips(skips: Mapping[str, Mapping[str, Any]]) -> Table:
    table = new_table("skip", "value", "mean", "std", "RMS", words=["value"])
    for key, values in skips.items():
        for name, value in values.items():
            table.add_row(safe_text(key), safe_text(name), *map(_number, value.values()))
    return table


def _parts(parts: Mapping[str, Mapping[str, Any]]) -> Table:
    table = new_table("parameters of", "weight norm", "gradient norm")
    for part, norms in parts.items():
        table.add_row(safe_text(part), _number(norms["weight_norm"]), _number(norms["gradient_norm"]))
    return table


def _drift(moved: Mapping[str, Any] | None) -> list[Table]:
    """Show how far the packed stream is from the trained one, by visit and by pass."""
    if moved is None:
        return []
    by_visit = new_table("quantization, visit", "block", "iteration", "error", "cosine", "growth")
    for visit in moved["visits"]:
        place = (str(visit[name]) for name in ("index", "block", "iteration"))
        by_visit.add_row(*place, *(_number(visit[name]) for name in ("error", "cosine", "growth")))
    by_pass = new_table("quantization, pass", "error", "growth")
    for row in moved["passes"]:
        by_pass.add_row(str(row["number"]), _number(row["error"]), _number(row["growth"]))
    return [by_visit, by_pass]


def _early_stop(loop: Mapping[str, Any]) -> list[Table]:
    """Show a loop by its passes, then where it could stop."""
    name = show_controls(loop["loop"])
    by_pass = new_table(f"{name}, passes", "loss", "increment", "delta", "ratio")
    for row in loop["passes"]:
        by_pass.add_row(
            str(row["passes"]), *(_number(row[column]) for column in ("loss", "increment", "delta", "ratio"))
        )
    stops = new_table(f"{name}, stop below", "loss", "passes", "fewest", "most", "never")
    for row in loop["stops"]:
        read = (_number(row[column]) for column in ("eps", "loss", "mean_passes"))
        stops.add_row(*read, str(row["fewest"]), str(row["most"]), f"{row['unmet']} of {loop['sequences']}")
    return [by_pass, stops]


def _range(values: Sequence[float | None]) -> tuple[str, str]:
    finite = [value for value in values if value is not None]
    return _number(min(finite, default=None)), _number(max(finite, default=None))


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"
