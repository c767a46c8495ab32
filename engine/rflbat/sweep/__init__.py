"""Sweeps: the cells of a grid of settings, and the launchers that run them."""
