"""From decoded slices to batches: one preprocessing, one store, one split."""
