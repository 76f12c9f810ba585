"""Time and memory, of this library and of its peers."""
