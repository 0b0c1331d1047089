"""lrflow's plugins for Hydra: its options and its sweeper."""
