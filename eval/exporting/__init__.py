"""Parts of eval.export: the models to export and the run behind each (members), the model card
(model_card, with its text in model_card.md.jinja), and ONNX (portable).
"""
