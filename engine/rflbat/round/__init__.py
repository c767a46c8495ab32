"""One round: its set-up, draws, training, defense, evaluation and records."""
