"""Defenses as components of other packages."""
