"""Transforms of the updates before a defense: mixing, bucketing and clipping."""
