"""A trained model applied to recordings of any length: a recording is cut into windows, the model
scores windows and their frames (waveform_model, tagger), and frame scores give events.
"""
