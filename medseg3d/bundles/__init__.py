"""Bundles: where they are found, and what is checked before one runs.

MONAI adds a misspelt id or override to the configuration without a word and evaluates what it needs when it needs it,
so that a mistake shows as an old value, or as a traceback after an hour. The checks here come first:

- :func:`check_config` and :func:`check_bundle` read files and signatures; nothing of the bundle is executed.
- :func:`review_bundle` shows what of a bundle would run code; :func:`require_trust` refuses a bundle that holds such.
- :func:`check_run` is the first item of every bundle's ``initialize``. It adds what needs values: the data list, the
  device, the network's channels and strides, and the memory for the cache.

:func:`pack_bundle` makes of a bundle and trained weights one folder or zip that others take as it is.

Importing this package is quick: MONAI and torch are imported by the functions that need them.
"""

from medseg3d.bundles.check import check_bundle, check_config
from medseg3d.bundles.copying import copy_bundle
from medseg3d.bundles.find import find_bundle, list_bundles
from medseg3d.bundles.pack import pack_bundle
from medseg3d.bundles.problems import Problem
from medseg3d.bundles.review import require_trust, review_bundle
from medseg3d.bundles.run import check_run

__all__ = [
    "Problem",
    "check_bundle",
    "check_config",
    "check_run",
    "copy_bundle",
    "find_bundle",
    "list_bundles",
    "pack_bundle",
    "require_trust",
    "review_bundle",
]
