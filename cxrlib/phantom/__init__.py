"""Phantom radiographs: a drawn data set in the NIH layout, with the true findings."""
