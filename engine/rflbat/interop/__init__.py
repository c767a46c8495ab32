"""Defenses under the interfaces of other packages."""
