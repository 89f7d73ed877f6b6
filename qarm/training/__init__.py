"""Training on ranks: collectives, loader, checkpoints, the loop, and how ranks are started."""
