"""Stage 1: raw logs and catalogue -> validated tables, splits and a quarantine with reasons."""
