"""What every room stands on: errors in one sentence, paths, files written whole, progress; nothing of the subject."""
