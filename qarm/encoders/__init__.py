"""The item encoder: frozen backbones and their features, towers, fusion, embedding of items."""
