"""One round of federated learning: setup, random draws, training, defense, evaluation and records."""
