"""The loop over rounds, with callbacks, checkpoints, interrupts and provenance."""
