"""Tables, figures and pages of runs and sweeps; reads run folders only."""
