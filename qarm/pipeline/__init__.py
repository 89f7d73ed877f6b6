"""Running stages: context, runner, lineage, summary, and the user's own tables."""
