"""Federated averaging: clients train at home, and the mean of their changes moves the common weights."""
