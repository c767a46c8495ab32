"""The batteries that every defense, attack and model passes, for those of others: ``pytest --rflbat-battery NAME``."""
