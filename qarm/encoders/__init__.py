"""Item encoder: frozen backbones and their cached features, towers, fusion, the whole catalogue."""
