"""The demo corpus: generators of sound, the classes that they make, and clips of these."""
