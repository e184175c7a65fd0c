"""The predictor service: predicts the output length of a request, as quantiles, from ONNX models.

Begin with `app` (the HTTP service) and `model` (one loaded model). `model_registry` holds all
models of a process, `batching` collects texts into forward passes, `features` counts what the model
reads of a text beside its tokens, and `bundled/` is the model that ships.
"""
