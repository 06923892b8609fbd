"""A trained model applied to recordings of any length: the recording is cut into windows, the model
scores windows and their frames (waveform_model, tagger), and events are found in frame scores.
"""
