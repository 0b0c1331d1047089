"""Shards, which are read nearly in sequence: tar files and Parquet."""
