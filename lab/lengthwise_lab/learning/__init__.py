"""Replays measured lengths as a queue's traffic, to measure what the learner is worth.

Begin with `replay`; `streams` reads the rows, `order` simulates what a prediction gains. Called by
`lengthwise bench learn`.
"""
