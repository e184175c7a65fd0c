"""Trains, measures and exports the model that ships with Lengthwise.

Begin with `train`, which is also a command. `blended_predictor` is the model: a `network` and a
`kernel`, averaged. `evaluate`, `unseen` and `probe` are commands that measure it. Its dataset,
scores and baselines stay as they were when its card was written, and are used nowhere else.
"""
