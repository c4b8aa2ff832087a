"""The base of every config struct: frozen, keyword-only, and closed to unknown keys.

A component owns its struct and receives only that. A choice between components is a tagged union: each member is
declared with `tag="name"` and written in TOML as `kind = "name"`.
"""

import msgspec


class Config(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="kind"):
    """Base of all config structs. Give members of a choice a `tag`; the key in TOML is `kind`."""
