"""Sweeps: how trials are chosen and pruned, and what is read from them in the end."""
