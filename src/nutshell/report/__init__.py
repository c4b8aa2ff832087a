"""What a run says to people: one HTML file from its stored files, and the lines a terminal shows while it works."""
