"""Speed, each figure against the plain way or the limit, measured side by side in one run: `make bench`."""
