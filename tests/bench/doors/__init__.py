"""Doors to compare ours with: HTTP servers that take the same webhooks in naive ways."""
