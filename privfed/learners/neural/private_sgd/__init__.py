"""DP-SGD over the records of all silos as one: secret samples, clipped gradients, central noise, no trusted server."""
