"""Trains one task on prepared rows: assembly, steps, calibration.

Begin with `fit`. `config` is all that a run depends on, `prepared` holds the rows as the backbone
reads them, `assembly` builds a `task_predictor` (or a `cross_predictor`, which reads two prompts at
once), `trainer` and `pair_trainer` make the steps, and `calibration` follows on validation rows.
"""
