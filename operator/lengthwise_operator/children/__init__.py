"""The objects that the operator creates for an LLMService, as manifests: one module per kind. Pure.

`all.py` lists them in the order in which they are applied.
"""
