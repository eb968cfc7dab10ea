"""Federated transfer learning: choose a source model, stay near it, fine-tune, deploy."""
