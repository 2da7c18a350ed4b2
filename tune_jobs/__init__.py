"""The entry points of `ray job submit`: one experiment a file."""
