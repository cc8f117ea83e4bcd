"""The one strict read of a window of an image."""
