"""The base of every config struct: frozen, keyword-only, and closed to unknown keys.

A component owns its struct and receives only that. A choice between components is a tagged union: each member is a
`Kind` declared with `tag="name"` and written in TOML as `kind = "name"`. Only those are tagged, so that no class name
gets into a recipe or an artifact.
"""

import msgspec


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of all config structs."""


class Kind(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of the members of a choice; give each a `tag`."""


def kind_of(member: Kind) -> str:
    """Give the name by which a recipe chooses this kind."""
    return str(member.__struct_config__.tag)
