"""The contract: all that two components of Lengthwise must agree on."""
