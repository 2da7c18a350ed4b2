"""A live page over results, in a browser. Never imports torch, transformers or Ray."""
