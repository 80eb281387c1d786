"""Figures of runs, drawn from their records: one figure a file. Needs matplotlib, the extra `figures`."""
