"""Studies: arms that differ in one thing, run over seeds, and what may be concluded from them."""
