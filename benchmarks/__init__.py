"""What is fast, and how that is known."""
