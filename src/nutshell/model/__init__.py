"""The language model: blocks applied by a depth schedule, with techniques behind fixed seams."""
