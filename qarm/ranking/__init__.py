"""The ranker: samples, features, model, training, and a baseline."""
