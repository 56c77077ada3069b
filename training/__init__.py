"""What surrounds a training step: state, loop, optimiser, processes, checkpoints."""
