"""Scores of predicted lengths, and the baselines that every predictor is compared with.

Begin with `scores`. `baselines` holds a constant, the prompt's length and the ceiling;
`bag_of_words` is the strongest baseline.
"""
