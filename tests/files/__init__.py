"""Small files as people have them, made by code: one a kind, each with its right reading.

A kind is a folder of one pair, ``image/a.*`` and ``label/a.*``, and what comes of it. A module of
this package adds its own by ``kind(...)`` and is imported here;
``tests/test_files_as_people_have_them.py`` puts each through every reader.
"""

from tests.files import images, labels
from tests.files.kinds import KINDS, Kind

__all__ = ["KINDS", "Kind", "images", "labels"]
