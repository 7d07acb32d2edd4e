"""Networks from radiographs to fourteen logits: architectures, pretrained weights, checkpoints."""
