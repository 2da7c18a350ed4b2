"""One trial against a storage. No Ray."""
