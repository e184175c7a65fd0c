"""The headline numbers of four research systems: reproduced, corrected, and beside our own."""
