"""Sweeps: search spaces, samplers and pruners, running trials, and the analysis of their results."""
