"""The xarray engine ``stformat``, found by its entry point.

xarray imports this module whenever it looks for an engine, whatever is opened: so nothing dear is
imported at the top.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import xarray as xr
from xarray.backends import BackendEntrypoint

from stformat.metadata.strict_json import MAX_BYTES, parse_object
from stformat.store.location import parse_location
from stformat.store.open_files import open_files

if TYPE_CHECKING:
    from stformat.store.reader import Slide

__all__ = ["StformatBackend"]


class StformatBackend(BackendEntrypoint):
    """Opens a store as a Dataset of tiles and expression, or as a DataTree of image levels.

    Its methods are xarray's to call: use ``xarray.open_dataset(path, engine="stformat")`` or
    `stformat.open_dataset`, ``xarray.open_datatree(path, engine="stformat")`` or
    `stformat.open_datatree`.

    Notes
    -----
    Without ``engine=`` xarray takes the first engine that claims a path. The engine ``zarr`` claims
    every path that ends in ``.zarr``, but engines beyond netCDF are asked in alphabetical order, so
    a store is opened by this one. Name the engine where it matters.
    """

    description: ClassVar[str] = "Open slides of spatial transcriptomics with stformat"
    supports_groups: ClassVar[bool] = True
    open_dataset_parameters: ClassVar[tuple[str, ...]] = (
        "filename_or_obj",
        "drop_variables",
        "tile_px",
        "mpp",
        "genes",
        "normalize",
        "target_sum",
        "table",
    )

    def guess_can_open(self, filename_or_obj: object) -> bool:
        """Say whether a path or URL is that of a store, by the attribute in its root; never raises.

        Of a URL, nothing is read unless its path ends in ``.zarr`` or ``.zip``.
        """
        if not isinstance(filename_or_obj, str | os.PathLike):
            return False
        try:
            location = parse_location(filename_or_obj)
            if location.is_url and not str(location).endswith((".zarr", ".zip")):
                return False
            with closing(open_files(location)) as files:
                root = parse_object(files.find("zarr.json", at_most=MAX_BYTES + 1) or b"")
        except (OSError, ValueError, TypeError):
            return False
        attributes = root.get("attributes")
        return isinstance(attributes, dict) and isinstance(attributes.get("stformat"), dict)

    def open_dataset(
        self,
        filename_or_obj: object,
        *,
        drop_variables: str | Iterable[str] | None = None,
        tile_px: int = 224,
        mpp: float | None = None,
        genes: Sequence[str] | None = None,
        normalize: Literal["log1p"] | None = None,
        target_sum: float | None = 1e4,
        table: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> xr.Dataset:
        """Open a table of a slide; see `stformat.open_dataset` and `stformat.open_slide`."""
        from stformat.lazy.variables import spots_dataset  # noqa: PLC0415 - see the module

        slide, close = _bind(filename_or_obj, storage_options)
        with _closing_on_error(close):
            dataset = spots_dataset(
                slide if table is None else slide.table(table),
                tile_px=tile_px,
                mpp=mpp,
                genes=genes,
                normalize=normalize,
                target_sum=target_sum,
            ).drop_vars(_names(drop_variables), errors="ignore")
        dataset.set_close(close)
        return dataset

    def open_groups_as_dict(
        self,
        filename_or_obj: object,
        *,
        drop_variables: str | Iterable[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> dict[str, xr.Dataset]:
        """Open the image levels as Datasets by path: ``/``, ``/s0``, ``/s1``, ..."""
        from stformat.lazy.variables import level_datasets  # noqa: PLC0415 - see the module

        slide, close = _bind(filename_or_obj, storage_options)
        with _closing_on_error(close):
            groups = {
                path: dataset.drop_vars(_names(drop_variables), errors="ignore")
                for path, dataset in level_datasets(slide).items()
            }
        groups["/"].set_close(close)
        return groups

    def open_datatree(
        self,
        filename_or_obj: object,
        *,
        drop_variables: str | Iterable[str] | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> xr.DataTree:
        """Open the image levels as a DataTree; see `stformat.open_datatree`."""
        groups = self.open_groups_as_dict(
            filename_or_obj, drop_variables=drop_variables, storage_options=storage_options
        )
        tree = xr.DataTree.from_dict(groups)
        tree.set_close(groups["/"].close)
        return tree


def _bind(
    source: object, storage_options: Mapping[str, Any] | None
) -> tuple[Slide, Callable[[], None] | None]:
    """Return the slide and what closes it; a slide that was given is the giver's to close."""
    from stformat.store.reader import Slide, open_slide  # noqa: PLC0415 - see the module

    if isinstance(source, Slide):
        return source, None
    if isinstance(source, str | os.PathLike):
        slide = open_slide(source, storage_options=storage_options)
        return slide, slide.close
    raise TypeError(f"a path or an opened Slide is needed, got {type(source).__name__}")


@contextmanager
def _closing_on_error(close: Callable[[], None] | None) -> Iterator[None]:
    with ExitStack() as on_error:
        if close is not None:
            on_error.callback(close)
        yield
        on_error.pop_all()


def _names(variables: str | Iterable[str] | None) -> list[str]:
    if variables is None:
        return []
    return [variables] if isinstance(variables, str) else list(variables)
