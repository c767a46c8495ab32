"""The loop over rounds: callbacks, checkpoints, interrupts, provenance."""
