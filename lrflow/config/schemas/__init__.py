"""Schemas of the config: one module per group, of pydantic models whose field types check single values."""
