"""Reasoning patterns in responses."""
