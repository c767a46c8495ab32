"""Files of a run: the run folder, checkpoints, atomic writes, locks, and bounded reading of untrusted input."""
