"""The mathematics and the trainer. No files, no Ray."""
