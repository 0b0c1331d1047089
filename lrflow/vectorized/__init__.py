"""Runs that differ in numbers alone, trained together: stacked weights, one step for all of them."""
