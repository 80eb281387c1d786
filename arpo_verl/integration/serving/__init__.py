"""Inference servers: one file each, behind one protocol."""
