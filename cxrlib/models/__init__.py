"""Networks that take bytes and give fourteen logits: architectures, pretrained weights, checkpoints."""
