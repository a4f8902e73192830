"""Pure geometry of subspaces and low-rank products, on batched tensors."""
