"""The eleven stages, named as the jobs: open tables, call pure functions, write, close ledgers."""
