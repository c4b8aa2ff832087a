"""Weights to integer codes and back: what is lost is decided here and nowhere else."""
