"""The ranker: samples, features, model, training, and the floor it is held against."""
