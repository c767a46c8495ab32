"""Data sets, stored whole on one device, and the partitions of their training samples among clients."""

from rflbat.data.base import Dataset, as_inputs
from rflbat.data.registry import DATASETS, Row, load

__all__ = ["DATASETS", "Dataset", "Row", "as_inputs", "load"]
