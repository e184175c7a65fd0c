"""The four research systems, reproduced and then corrected."""
