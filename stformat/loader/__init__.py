"""Shuffled batches of tiles and expression from many slides."""

from __future__ import annotations

from stformat.loader.augment import Augmentation
from stformat.loader.decodes import DecodeCounts
from stformat.loader.expression import Panel
from stformat.loader.loader import TileLoader
from stformat.loader.sampling import balanced_weights

__all__ = ["Augmentation", "DecodeCounts", "Panel", "TileLoader", "balanced_weights"]
