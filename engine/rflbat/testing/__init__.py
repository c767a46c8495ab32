"""The battery that every defense of this package passes, for defenses of others: ``pytest --rflbat-battery NAME``."""
