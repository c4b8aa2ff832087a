"""TOML to frozen structs: one level of `base`, overrides for exploration, and errors that name file, key and remedy.

Decoding is msgspec's, strict: an unknown key, a wrong type or an unknown `kind` is refused with its dotted path and the
nearest valid name, a number that is not finite with its path. A base is another recipe that has no base itself, so that
what a file says is never more than one file away.
"""

import copy
import difflib
import math
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import tomli_w

from nutshell.errors import RecipeError

T = TypeVar("T")


def read_table(path: Path) -> dict[str, Any]:
    """Read a TOML file and merge it over its `base`, a file name relative to its own folder.

    The result has no `base` key.

    Raises:
        RecipeError: a file is missing, is not TOML, or a base has a base.
    """
    table = read_toml(path)
    if "base" not in table:
        return table
    base_path = path.parent / str(table.pop("base"))
    base = read_toml(base_path)
    if "base" in base:
        raise RecipeError(f"{path}: its base {base_path.name} has a base itself; a recipe may be one level deep only")
    return merge(base, table)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Lay a table over another: tables merge key by key; lists and values replace."""
    merged = dict(below)
    for key, value in above.items():
        if not isinstance(value, Mapping):
            merged[key] = value
            continue
        # A table that names another kind is another component: nothing of the one below it applies.
        under = merged.get(key)
        if not isinstance(under, Mapping) or value.get("kind") not in (None, under.get("kind")):
            under = {}
        merged[key] = merge(under, value)
    return merged


def apply_overrides(table: Mapping[str, Any], overrides: Sequence[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Apply `path.to.key=value` settings, values written as in TOML (a bare word is a string).

    Returns:
        The changed table, and the overrides as {path: value} for the record.
    """
    changed = copy.deepcopy(dict(table))
    recorded = {}
    for override in overrides:
        path, separator, text = override.partition("=")
        keys = path.strip().split(".")
        if not separator or not all(keys):
            raise RecipeError(f"--set {override}: expected path.to.key=value, as in --set optim.matrix_lr=0.03")
        value = _parse_value(text.strip())
        _set(changed, keys, value, override)
        recorded[path.strip()] = value
    return changed, recorded


def decode(table: Mapping[str, Any], type_: type[T], *, where: str) -> T:
    """Decode a table into a config struct.

    Raises:
        RecipeError: with `where` (a file or other source), the dotted path and the nearest valid name.
    """
    for path, fault in _unfit_numbers(table):
        raise RecipeError(f"{where}: '{path}': {fault}")
    try:
        return msgspec.convert(table, type_, strict=True)
    except msgspec.ValidationError as error:
        raise RecipeError(f"{where}: {_explain(str(error), table, type_)}") from error


def to_table(config: msgspec.Struct) -> dict[str, Any]:
    """Turn a config back into plain tables, defaults included; absent (None) values stay absent."""
    return _drop_none(msgspec.to_builtins(config))


def to_toml(config: msgspec.Struct) -> str:
    """Write a config as TOML; `decode` of it gives the same config back."""
    return tomli_w.dumps(to_table(config))


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file as it is written.

    Raises:
        RecipeError: it is missing, or is not TOML.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"{path}: cannot read the recipe ({error.strerror})") from error
    except ValueError as error:  # TOMLDecodeError and UnicodeDecodeError
        raise RecipeError(f"{path}: not valid TOML ({error})") from error


def _parse_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _set(table: dict[str, Any], keys: Sequence[str], value: Any, override: str) -> None:
    *parents, last = keys
    node: Any = table
    for key in parents:
        node = _enter(node, key, override)
    if isinstance(node, list):
        node[_position(node, last, override)] = value
    else:
        node[last] = value


def _enter(node: Any, key: str, override: str) -> Any:
    if isinstance(node, list):
        return node[_position(node, key, override)]
    child = node.setdefault(key, {})
    if not isinstance(child, dict | list):
        raise RecipeError(f"--set {override}: '{key}' is a value, not a table")
    return child


def _position(items: list[Any], key: str, override: str) -> int:
    if not key.isdigit() or int(key) >= len(items):
        raise RecipeError(f"--set {override}: '{key}' is no position in a list of {len(items)}")
    return int(key)


def _drop_none(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _drop_none(item) for key, item in value.items() if item is not None}
    if isinstance(value, list | tuple):
        return [_drop_none(item) for item in value]
    return value


def _unfit_numbers(value: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, str]]:
    """List the numbers of a table that Python's TOML reads and nothing here is made for, and say why.

    No comparison with a bound can be trusted to refuse nan, and an integer of thousands of digits cannot be printed.
    """
    if isinstance(value, float) and not math.isfinite(value):
        yield ".".join(path), f"{value} is no finite number"
    elif isinstance(value, int) and not -(2**63) <= value < 2**63:
        yield ".".join(path), "an integer of more than 64 bits"
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _unfit_numbers(item, (*path, str(key)))
    elif isinstance(value, list | tuple):
        for position, item in enumerate(value):
            yield from _unfit_numbers(item, (*path, str(position)))


def _explain(message: str, table: Mapping[str, Any], type_: Any) -> str:
    """Rewrite msgspec's message with a dotted path and, for a name it does not know, the nearest valid one."""
    text, _, location = message.partition(" - at `")
    path = re.sub(r"\[(\d+)\]", r".\1", location.rstrip("`")).removeprefix("$").removeprefix(".")
    if unknown := re.search(r"unknown field `([^`]*)`", text):
        parent = path.split(".") if path else []
        name = unknown[1]
        return f"unknown key '{'.'.join([*parent, name])}'{_nearest(name, _fields_at(type_, table, parent))}"
    if bad_kind := re.fullmatch(r"Invalid value '([^']*)'", text):
        keys = path.split(".")
        tags = _tags_at(type_, table, keys[:-1]) if keys[-1] == "kind" else []
        return f"unknown kind '{bad_kind[1]}' at '{path}'{_nearest(bad_kind[1], tags)}"
    return f"'{path}': {text}" if path else text


def _nearest(name: str, valid: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, valid, n=1, cutoff=0.5)
    if close:
        return f"; did you mean '{close[0]}'?"
    return f"; valid: {', '.join(sorted(valid))}" if valid else ""


def _fields_at(type_: Any, table: Any, path: Sequence[str]) -> list[str]:
    return [field.encode_name for struct in _structs_at(type_, table, path) for field in struct.fields]


def _tags_at(type_: Any, table: Any, path: Sequence[str]) -> list[str]:
    return [str(struct.tag) for struct in _structs_at(type_, {}, path) if struct.tag is not None]


def _structs_at(type_: Any, table: Any, path: Sequence[str]) -> list[msgspec.inspect.StructType]:
    """Walk type and data side by side; the data's `kind` narrows a union to the member that was meant."""
    structs = _narrow(msgspec.inspect.type_info(type_), table)
    for key in path:
        table = _child(table, key)
        members = [field.type for struct in structs for field in struct.fields if field.encode_name == key]
        if key.isdigit():
            continue  # a list was entered by its field; its items were looked into there
        structs = [found for member in members for found in _narrow(member, table)]
    return structs


def _child(table: Any, key: str) -> Any:
    if isinstance(table, Mapping):
        return table.get(key)
    if isinstance(table, Sequence) and key.isdigit() and int(key) < len(table):
        return table[int(key)]
    return None


def _narrow(info: msgspec.inspect.Type, table: Any) -> list[msgspec.inspect.StructType]:
    if isinstance(info, msgspec.inspect.StructType):
        return [info]
    if isinstance(info, msgspec.inspect.ListType | msgspec.inspect.VarTupleType):
        return _narrow(info.item_type, None)
    if isinstance(info, msgspec.inspect.UnionType):
        structs = [found for member in info.types for found in _narrow(member, table)]
        kind = table.get("kind") if isinstance(table, Mapping) else None
        return [struct for struct in structs if struct.tag == kind] or structs
    return []
