"""The server's step: optimizers that apply a decision's update to the global model."""
