"""lrflow's configuration: one folder per group, one short file per option."""
