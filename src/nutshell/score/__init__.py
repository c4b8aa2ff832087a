"""Scores from bytes: windows, ledger, proof. This room has never met the model or the trainer, and imports no torch."""
