"""Readers of foreign profiles, one function a source."""
