"""Evaluation of networks by protected sums, and what is decided by it: held-out records, early stopping."""
