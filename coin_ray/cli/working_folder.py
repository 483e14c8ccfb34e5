"""Take the working folder off the path, unless this package lies in it.

`python -m coin_ray.cli` looks for every module there first: for `random`, where a random.py lies.
"""

import os
import sys

_OURS = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
# So it reads while Python still looks for the module that it is to run.
if sys.argv[:1] == ["-m"] and sys.path[0] == os.getcwd() != _OURS:
    del sys.path[0]
