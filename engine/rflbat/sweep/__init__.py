"""Many runs: the cells of a grid and the processes that run them."""
