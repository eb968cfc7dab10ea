"""Neural networks of torch, trained through the one door."""
