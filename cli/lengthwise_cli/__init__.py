"""The `lengthwise` command."""
