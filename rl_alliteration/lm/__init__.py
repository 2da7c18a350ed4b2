"""Language models: loading, the forward pass, sampling and scoring."""
