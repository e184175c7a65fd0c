"""The table of headline numbers: theirs, reproduced, corrected, ours."""
