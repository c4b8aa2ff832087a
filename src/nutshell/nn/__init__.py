"""The parts models are made of: projections, attention, norms, rotary positions, and parameters with roles."""
