"""Checks of a config that need more than one key, a signature or a file: each finds problems, and builds nothing."""
