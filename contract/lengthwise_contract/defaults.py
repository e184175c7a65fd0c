"""Defaults that more than one package needs, each written once.

The defaults of a queue's settings are the field defaults of `queue_settings.QueueSettings`. The
rest is here: the services, the operator and the lab import them. tests/test_defaults.py compares
the Helm chart, which cannot import Python.
"""

from __future__ import annotations

#: A job whose worker has sent no heartbeat for this long goes back to the queue, ms. Every process
#: that uses one Redis must have the same.
LEASE_MS = 15_000

#: The pause between two heartbeats of a worker, ms: a third of the lease, so that two may be lost.
BEAT_MS = 5_000

#: The pause between two ticks, which end leases, delays and deadlines, ms.
TICK_MS = 1_000

#: A worker without a heartbeat for this long is forgotten, ms.
WORKER_TTL_MS = 30_000

#: How many attempts a job has in all, unless its request says otherwise.
MAX_ATTEMPTS = 3

#: The longest wait for a prediction, the whole call, ms; docs/research/experiments.md, "a burst
#: and the 20 ms".
PREDICTOR_TIMEOUT_MS = 20

#: The last answers that a queue keeps, to calibrate and to judge its predictor.
ANSWERS_KEPT = 256

#: Requests of one batch that are jobs at the same time.
BATCH_WINDOW = 256

#: A batch whose replica is silent for this long is taken over by another, ms.
BATCH_LEASE_MS = 15_000

#: How long a batch may take, "24h" at OpenAI, s.
BATCH_COMPLETION_S = 86_400

#: How long a file is kept, s.
FILE_TTL_S = 30 * 86_400

#: The largest request body, bytes: room for a phone's photos, which base64 makes a third larger.
MAX_BODY_BYTES = 16 * 2**20

#: The pause between two checks of a predictor's folder for a new model, s.
RELOAD_EVERY_S = 5.0

#: Replicas of Redis that must confirm a write under the durability `replica`.
DURABILITY_REPLICAS = 1

#: The longest wait for that confirmation, ms.
DURABILITY_TIMEOUT_MS = 1_000
