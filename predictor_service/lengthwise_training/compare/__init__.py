"""Compares predictors on the same rows: `lengthwise evaluate` and `lengthwise bench predictor`.

Begin with `comparison`. `served_model` and `fitted_predictors` are what it compares, `report` and
`notes` what it returns. `self_perception` asks the LLM itself. `predictor_bench` measures speed.
"""
