"""What a fitted mixture is for: anomaly thresholds, federated inference, explanations, figures."""
