"""Data sets, held whole on one device, and the division of their training samples among clients."""
