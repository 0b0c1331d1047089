"""Hydra finds lrflow's sweeper here."""
