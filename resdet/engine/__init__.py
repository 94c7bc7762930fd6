"""Training: the loop, the solver, checkpoints and logs."""
