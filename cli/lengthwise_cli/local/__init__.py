"""The whole of Lengthwise on one machine: processes, ports, weights."""
