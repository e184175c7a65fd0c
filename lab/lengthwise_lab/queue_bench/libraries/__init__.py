"""One module for each library. library.py defines what a module must have."""
