"""The six notebooks as a run: parameters, the runner, the run folder, exercises; report/ makes its page and PDF."""
