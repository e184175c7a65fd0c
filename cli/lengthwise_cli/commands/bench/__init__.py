"""`lengthwise bench`: one module for each benchmark."""
