"""Training of the diffusion renderer: samples and their augmentation, losses, and the loop."""
