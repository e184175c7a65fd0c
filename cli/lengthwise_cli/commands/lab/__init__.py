"""`lengthwise lab`: the simulator and the reproductions."""
