"""Delta tables, files and manifests. Nothing here depends on a stage or on the configuration."""
