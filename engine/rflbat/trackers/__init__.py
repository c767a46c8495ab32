"""Experiment trackers as callbacks of a run; the run folder remains the authoritative record."""
