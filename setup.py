"""Packages of the wheel; everything else is in pyproject.toml.

Studies and search spaces lie at the top of the repository, where people look for them, and travel
in the package, where an installation finds them.
"""

from setuptools import find_packages, setup

SHELVES = ("search_spaces", "ablations")

setup(
    packages=[
        *find_packages(include=["coin_ray", "coin_ray.*"]),
        *(f"coin_ray.{shelf}" for shelf in SHELVES),
    ],
    package_dir={f"coin_ray.{shelf}": shelf for shelf in SHELVES},
)
