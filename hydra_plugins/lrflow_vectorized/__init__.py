"""The package in which Hydra finds lrflow's vectorized launcher."""
