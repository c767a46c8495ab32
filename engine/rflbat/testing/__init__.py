"""The test battery of this package's defenses, for third-party defenses: ``pytest --rflbat-battery NAME``."""
