"""Hydra finds lrflow's vectorised launcher here."""
