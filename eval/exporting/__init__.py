"""Exported models: folders, ONNX and model cards."""
