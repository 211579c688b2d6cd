"""From raw sources to rows with provenance."""
