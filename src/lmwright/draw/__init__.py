"""Charts as SVG, for report and studio alike."""
