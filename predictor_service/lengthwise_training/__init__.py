"""Training, comparing and exporting length predictors; the only code that needs PyTorch.

Each folder is one stage, and imports only folders below it:

```
runs | compare | bundled     lengthwise train | lengthwise evaluate | how the shipped model is made
export | adapt               ONNX files of trained tasks | lengthwise adapt
fitting                      trains one task on prepared rows
scoring | objectives         scores and baselines | what a predictor learns
backbones | data             what reads the prompt | rows of measured lengths
```

Begin with `runs.run.train_task` to follow one training run from a file of rows to a model.
"""
