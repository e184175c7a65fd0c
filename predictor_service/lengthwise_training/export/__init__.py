"""Writes a trained task as the folder that serving loads, with its model card.

Begin with `onnx_export`. The bundled model has its own export, `bundled.int8_export`.
"""
