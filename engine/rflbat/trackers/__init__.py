"""Experiment trackers as callbacks of a run; the run folder stays the truth."""
