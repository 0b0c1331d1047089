"""Vectorized training: runs that differ only in numbers train as a population, with one step for all of them."""
