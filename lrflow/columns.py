"""Columns of metrics.csv that training writes and reports read, by name."""

from __future__ import annotations

DATA_TIME = "train/data_time"
"""Seconds of a step for which the process waited for data."""

COSINE = "train/update_cosine"
"""Cosine between an update and the one before."""

NOISE_SCALE = "train/gradient_noise_scale"
"""The smoothed gradient noise scale, in examples."""

SHARPNESS = ("sharpness/top", "sharpness/share")
"""The largest eigenvalue of P^-1 H, and the share of the stability bound that the LRs use."""

PER_SECOND = "throughput/{}_per_second"
"""Throughput of all devices together: of steps, samples and tokens."""

STEPS, SAMPLES, TOKENS = map(PER_SECOND.format, ("steps", "samples", "tokens"))

PEAK = "memory/peak_gib"
"""The most memory that the first process has held so far: of its GPU, or of the machine."""

VARYING = ("train/step_time", DATA_TIME, "throughput/", "memory/")
"""Starts of the columns in which equal runs differ: what a clock or the machine gave."""
