"""Audio files to waveforms and back."""
