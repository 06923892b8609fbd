"""A trained model applied to recordings of any length."""
