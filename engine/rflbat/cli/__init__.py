"""The command ``rflbat``."""
