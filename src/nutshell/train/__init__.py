"""Training: one loop, one clock, and checkpoints that lose nothing."""
