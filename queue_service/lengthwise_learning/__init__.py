"""Learns the lengths of one queue's answers from its own finished jobs. Pure: numpy, no I/O.

Begin with `evidence`: what is kept of a job. `learner.fit` makes a `learned.Learned` of it, which
predicts; `promotion` decides when to fit again and which prediction a queue serves.
"""
