"""The warp renderer: the source's head as a mesh that follows the target's pose and expression. Pure functions of arrays."""
