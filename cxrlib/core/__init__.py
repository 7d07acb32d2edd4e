"""Shared foundations: one-sentence errors, paths, atomic file writes, and progress bars."""
