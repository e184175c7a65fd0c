"""The table of headline numbers: its rows, their sources, and how they are shown."""
