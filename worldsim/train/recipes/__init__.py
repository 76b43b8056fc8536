"""What can be trained, one recipe per file."""
