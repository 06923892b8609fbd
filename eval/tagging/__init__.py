"""What tagging prints and writes."""
