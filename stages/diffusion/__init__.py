"""The diffusion renderer behind the common interface: the networks of ``stages.networks`` on the target's frames."""
