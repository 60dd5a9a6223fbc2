"""The training loop: one step, what is measured, when things happen, checkpoints."""
