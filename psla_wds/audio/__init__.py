"""Audio files, streams and arrays to waveforms (decode, ffmpeg), waveforms to files (encode), and
what can be wrong with a waveform that can be used (quality).
"""
