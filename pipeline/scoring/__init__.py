"""Log-probabilities of stored tokens under a model: batches, packing, backbone and head."""
