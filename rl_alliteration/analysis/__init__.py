"""What texts are like: variety, repetition, alliteration. Never imports torch, transformers or Ray."""
