"""Data sets held whole on one device, and the ways to divide their training samples among clients."""

from rflbat.data.base import Dataset, as_inputs
from rflbat.data.registry import DATASETS, Row, load

__all__ = ["DATASETS", "Dataset", "Row", "as_inputs", "load"]
