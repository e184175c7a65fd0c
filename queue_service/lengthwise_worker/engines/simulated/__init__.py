"""A simulated engine with vLLM's API: `python -m lengthwise_worker.engines.simulated --port 8000`.

For load tests at scales that no test machine has, and for tests of every engine fault. It has
slots, a waiting queue and a speed like a real engine; only the text is made up.

`request.py` reads a request, `batch.py` schedules it, `response.py` writes the answer, `server.py`
is the HTTP API. `embedded.py` runs all of it inside a worker; `engine.py` builds the engine.
"""
