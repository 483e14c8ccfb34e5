"""coin-ray: distributed hyper-parameter and ablation studies of COIN (ICCV 2025)."""

__version__ = "0.1.0"
