"""Tables, figures and HTML pages of runs and sweeps, computed from run folders alone."""
