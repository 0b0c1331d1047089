"""lrflow's configuration: one folder a group, one short file an option."""
