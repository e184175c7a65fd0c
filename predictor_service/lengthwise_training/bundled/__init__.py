"""How the model that ships with Lengthwise is made."""
