"""A user's labelled images: reading five formats, checking, splitting, decoding.

``formats`` recognises what lies in a folder and reads it into ``records``; ``check`` looks at
every image and box; ``split`` says what is for training, choices and the published figure;
``inventory`` is these three in a row; ``decode`` makes arrays; ``load`` is the whole way.
"""

from .formats import FORMATS
from .images import DataSet, Images
from .inventory import Inventory, refuse_errors, take_inventory
from .load import Source, load_dataset, source_from_recipe
from .packs import read_pack
from .problems import Problem
from .records import Box, Listing, Record

__all__ = [
    "FORMATS",
    "Box",
    "DataSet",
    "Images",
    "Inventory",
    "Listing",
    "Problem",
    "Record",
    "Source",
    "load_dataset",
    "read_pack",
    "refuse_errors",
    "source_from_recipe",
    "take_inventory",
]
