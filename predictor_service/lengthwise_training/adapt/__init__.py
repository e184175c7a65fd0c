"""Fits the bundled model to a user's own lengths, in closed form: `lengthwise adapt`.

Begin with `adapted_predictor`: a `kernel_fit` on the model's view of a prompt (`view_extractor`)
and a `word_table`. `adapted_model` writes it as a folder that serving loads; `graph` is its ONNX
graph.
"""
