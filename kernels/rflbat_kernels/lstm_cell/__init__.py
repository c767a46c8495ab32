"""The elementwise part of an LSTM step, after its matrix products, forward and backward."""

from rflbat_kernels.lstm_cell.torch import Cell, lstm_cell, lstm_cell_backward

__all__ = ["Cell", "lstm_cell", "lstm_cell_backward"]
