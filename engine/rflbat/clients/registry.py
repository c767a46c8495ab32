"""Names of the back ends and optimizers of local training."""

BACKENDS = ("auto", "vmap", "loop", "analytic")
OPTIMIZERS = ("sgd", "adam")
