"""Run folders and other files: schema, tensors, atomic writes, locks, untrusted input."""
