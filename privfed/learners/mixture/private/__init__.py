"""Mixtures under a budget: the two-stage recipe, its plan, its updates, and what to expect of it beforehand."""
