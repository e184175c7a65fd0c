"""The work on batches: read the input file, submit its lines, write the results."""
