"""One module for each kind of head: its losses while training, and its way back to tokens.

Begin with `quantiles`, the shortest. A module ends with the `Objective`s that `objectives.tasks`
registers.
"""
