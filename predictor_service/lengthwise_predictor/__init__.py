"""The predictor: output length of a request, as quantiles, from one ONNX model."""
