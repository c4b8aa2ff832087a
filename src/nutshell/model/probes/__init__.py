"""Diagnostics of a model in work, read from outside: no forward knows of them, and without a probe none runs."""
