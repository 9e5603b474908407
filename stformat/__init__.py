"""The store and library for training on spatial transcriptomics.

One slide is one chunked Zarr v3 store that SpatialData, AnnData, OME-NGFF and zarr tools open.

Examples
--------
>>> import stformat as stf
>>> path = stf.convert_slide("her2st/B4", "B4.zarr", species="human")  # doctest: +SKIP
>>> with stf.open_slide(path) as slide:  # doctest: +SKIP
...     tiles = slide.tiles(224)[:32]
...     counts = slide.counts[:32]
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stformat.check.slide import check_store
    from stformat.collection.collecting import collect_slides
    from stformat.collection.gene_panel import GenePanel
    from stformat.collection.opening import open_collection
    from stformat.collection.panel_rules import gene_panel
    from stformat.collection.slides import Collection
    from stformat.collection.split import Split
    from stformat.convert import CorpusReport, convert_slide, convert_slides
    from stformat.convert.spatialdata_object import from_spatialdata
    from stformat.export.slide import export_slide
    from stformat.export.tiles import export_tiles
    from stformat.genes.mapping_file import read_vocabulary
    from stformat.lazy.annotated_matrix import to_anndata
    from stformat.lazy.dataset import open_dataset
    from stformat.lazy.datatree import open_datatree
    from stformat.lazy.sparse_blocks import counts_as_dask
    from stformat.lazy.spatial_elements import to_spatialdata
    from stformat.loader.loader import TileLoader
    from stformat.store.commit import seal_store
    from stformat.store.reader import Slide, open_slide
    from stformat.store.verify import verify_store

__all__ = [
    "Collection",
    "CorpusReport",
    "GenePanel",
    "Slide",
    "Split",
    "TileLoader",
    "check_store",
    "collect_slides",
    "convert_slide",
    "convert_slides",
    "counts_as_dask",
    "export_slide",
    "export_tiles",
    "from_spatialdata",
    "gene_panel",
    "open_collection",
    "open_dataset",
    "open_datatree",
    "open_slide",
    "read_vocabulary",
    "seal_store",
    "to_anndata",
    "to_spatialdata",
    "verify_store",
]

# Where each public name lives. Resolved on first use (PEP 562), so that `import stformat` costs
# nothing and a program pays only for the parts that it calls.
_HOMES = {
    "Collection": "stformat.collection.slides",
    "CorpusReport": "stformat.convert",
    "GenePanel": "stformat.collection.gene_panel",
    "Slide": "stformat.store.reader",
    "Split": "stformat.collection.split",
    "TileLoader": "stformat.loader.loader",
    "check_store": "stformat.check.slide",
    "collect_slides": "stformat.collection.collecting",
    "convert_slide": "stformat.convert",
    "convert_slides": "stformat.convert",
    "counts_as_dask": "stformat.lazy.sparse_blocks",
    "export_slide": "stformat.export.slide",
    "export_tiles": "stformat.export.tiles",
    "from_spatialdata": "stformat.convert.spatialdata_object",
    "gene_panel": "stformat.collection.panel_rules",
    "open_collection": "stformat.collection.opening",
    "open_dataset": "stformat.lazy.dataset",
    "open_datatree": "stformat.lazy.datatree",
    "open_slide": "stformat.store.reader",
    "read_vocabulary": "stformat.genes.mapping_file",
    "seal_store": "stformat.store.commit",
    "to_anndata": "stformat.lazy.annotated_matrix",
    "to_spatialdata": "stformat.lazy.spatial_elements",
    "verify_store": "stformat.store.verify",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        value: object = import_module("importlib.metadata").version("stformat")
    elif name in _HOMES:
        value = getattr(import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, "__version__"})
