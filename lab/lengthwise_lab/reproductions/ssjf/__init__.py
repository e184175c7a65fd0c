"""SSJF: its simulator, reproduced and corrected."""
