"""Learns the lengths of one queue's answers from its own finished jobs. Pure: numpy, no I/O.

Begin with `evidence`: what is kept of a job. `learner.fit` makes a `learned.Learned` of it, which
predicts; `promotion` decides when to fit again and which prediction a queue serves.
"""

import os

# Read when numpy is imported, which in the queue service is after this. A prediction is a product
# of 2,000 rows: several threads would only wait for each other, and a fit must leave the other
# cores to requests. One thread also adds in one order, so that replicas agree.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
