"""Runs of `lengthwise train`: from a file of rows to a folder with a measured model.

Begin with `run.train_task`. `all_tasks` runs every task on the same rows and prints their table,
`measure` scores a trained task on the test fold, and `folder` names the files of a run.
"""
