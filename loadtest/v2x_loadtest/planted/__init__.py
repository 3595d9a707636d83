"""Scenes that a seed makes: traffic with planted events of every kind, and with what only looks like one."""
