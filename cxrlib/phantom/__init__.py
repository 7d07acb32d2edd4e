"""Radiographs that are drawn: a data set in the NIH layout, with its truth."""
