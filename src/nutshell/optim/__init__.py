"""Optimizers by role: Muon for the matrices, AdamW for the rest, and the curves that steer them."""
