"""From groups, options and overrides to one composed config: Hydra's part of reading a config."""
