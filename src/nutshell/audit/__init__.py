"""Audits of predictors that cannot be proved, or whose proof is not enough: probes that look for ways of cheating.

A probe runs a subject (subjects.py) on streams of its own making and says what it found: passed, failed or cannot tell,
with the evidence, how much it saw and what it cannot see. None says that a predictor is honest.
"""
