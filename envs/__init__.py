"""Gymnasium environments over the shared objective."""
