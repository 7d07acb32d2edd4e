"""From files to tables and tensors: findings, metadata, sources, splits, the cache of decoded images, datasets."""
