"""A Hugging Face model in this process, which decodes static batches; for batch work.

`engine.py` is the engine and its thread. `openai_format.py` reads requests and writes answers,
`pending_request.py` is one request in progress, `batch_planner.py` decides what runs together (in
`sequence` mode with `sequence_scheduling.py`), `decoder.py` runs the model. Only `decoder.py` needs
PyTorch.
"""
