"""Gradients of single records: clipped one by one, to the same bits whatever stands beside them."""
