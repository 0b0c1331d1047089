"""The jobs of `task=`: one short module each, found by its name, with a `run(config)`."""
