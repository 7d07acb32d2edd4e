"""The report of a run: evidence, pages, the index of all runs."""
