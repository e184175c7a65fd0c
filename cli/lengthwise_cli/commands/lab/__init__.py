"""`lengthwise lab`: the simulator and the reproductions of the four research systems."""
