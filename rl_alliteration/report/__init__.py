"""Results as figures and one HTML page. Never imports torch, transformers or Ray."""
