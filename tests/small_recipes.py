"""Recipes for tests: a text with changes, and every installed combination of techniques at a small width."""

from pathlib import Path
from typing import Any

import msgspec

from nutshell.config.catalog import installed_recipes
from nutshell.recipe import Resolved, resolve

# What a size shrinks to, by the name of its setting; heads keep two to a group, so that grouping is tested.
SMALLER = {
    "vocab_size": 61,
    "model_dim": 24,
    "num_heads": 4,
    "num_kv_heads": 2,
    "head_dim": 8,
    "mlp_dim": 40,
    "dims": 4,
    "dim": 6,
    "buckets": 17,
    "rank": 3,
    "inputs": 8,
}


def resolve_changed(folder: Path, text: str, *changes: tuple[str, str]) -> Resolved:
    """Resolve a recipe's text after changes, each of which must find its place."""
    for before, after in changes:
        assert before in text
        text = text.replace(before, after)
    (folder / "small.toml").write_text(text)
    return resolve(str(folder / "small.toml"))


def shrink(table: Any) -> Any:
    """Replace every size in a decoded recipe's table; what is absent stays absent."""
    if isinstance(table, dict):
        return {
            key: SMALLER[key] if key in SMALLER and isinstance(value, int) else shrink(value)
            for key, value in table.items()
        }
    return [shrink(item) for item in table] if isinstance(table, list | tuple) else table


def small_recipes() -> dict[str, dict[str, Any]]:
    """Give the small model tables by recipe name; of recipes that differ in sizes and schedule alone, the first."""
    found: dict[bytes, tuple[str, dict[str, Any]]] = {}
    for name, _ in installed_recipes():
        if name.endswith("-cpu"):  # twins join the same techniques
            continue
        table = shrink(msgspec.to_builtins(resolve(name).recipe.model))
        table["attention"]["head_dim"] = SMALLER["head_dim"]
        depth = {key: value for key, value in table["depth"].items() if key != "schedule"}
        found.setdefault(msgspec.json.encode({**table, "depth": depth}), (name, table))
    return dict(found.values())
