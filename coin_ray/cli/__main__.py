"""``python -m coin_ray.cli``."""

from coin_ray.cli import main

main()
