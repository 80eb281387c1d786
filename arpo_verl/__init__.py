"""ARPO (Agentic Reinforced Policy Optimization, arXiv 2507.19849) for verl.

Importing this package imports neither verl nor torch. verl itself loads `arpo_verl.plugin` through its entry point.
"""

__version__ = "0.1.0"
