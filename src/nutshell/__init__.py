"""nutshell trains, compresses and scores the best language model that fits in a given number of bytes."""

__version__ = "0.1.0"
