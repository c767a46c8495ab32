"""The settings of a run, and named sets of them."""
