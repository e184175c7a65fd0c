"""The objectives of training: tasks, heads and losses.

Begin with `tasks`, the registry: a name and an `Objective` for each task. A module of `heads/`
holds the heads of one kind and their objectives; `losses` are plain functions of tensors.
"""
