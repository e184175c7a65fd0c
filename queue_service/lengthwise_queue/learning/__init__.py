"""Learns the lengths of a queue's answers from its finished jobs, and predicts with that.

`lengthwise_learning` computes, `lengthwise_store.learning` stores; here is what connects the two
with requests. Begin with `forecaster`, which admission calls, and `learner`, the periodic job.
"""
