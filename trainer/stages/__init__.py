"""The stages that end in a policy: policy[0], and the training of a generation."""
