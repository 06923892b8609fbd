"""The library: every mechanism, no command line."""
