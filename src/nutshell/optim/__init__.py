"""Optimizers by role: Muon for the matrices, AdamW for the rest, on one rank or many."""
