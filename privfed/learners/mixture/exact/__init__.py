"""Mixtures without a budget: EM from exact sums, its starts, its accelerations, and averaged parameters."""
