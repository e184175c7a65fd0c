"""Work on batches: read the input file, submit its lines as jobs, write the results."""
