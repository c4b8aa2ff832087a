"""Recipes as data: strict decoding of TOML into frozen structs, and their canonical form and hash."""
