"""The codec `imagecodecs_jpeg` for zarr-python, which finds it by the entry point of this package.

zarr-python, and so SpatialData and every tool built on it, reads and writes with it the images
that this library stores as JPEG. The configuration is that of the codec of the same name in the
package imagecodecs-zarr, which reads the same chunks; members that would change what a stream
decodes to are refused.

Specification: spec/stformat-0.1.md, "Arrays and codecs".
"""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from typing import Literal, Self

import numpy as np
from zarr.abc.codec import ArrayBytesCodec
from zarr.core.array_spec import ArraySpec
from zarr.core.buffer import Buffer, NDBuffer
from zarr.core.common import JSON, parse_named_configuration

from stformat.store.chunk_jpeg import decode_jpeg, encode_jpeg

__all__ = ["JpegCodec"]

_NAME = "imagecodecs_jpeg"


@dataclass(frozen=True)
class JpegCodec(ArrayBytesCodec):
    """Chunks ``(y, x, sample)`` of uint8, of one or three samples, as JPEG streams.

    Parameters
    ----------
    level : int, default: 90
        Quality of chunks that are encoded, 1 to 100.
    subsampling : {"444", "422", "420"}, default: "444"
        How many pixels share a sample of colour in chunks that are encoded.

    Raises
    ------
    ValueError
        If a parameter is not what it must be.

    Notes
    -----
    Lossy: what is written is not what is read.

    Examples
    --------
    >>> import zarr
    >>> from zarr.codecs import Crc32cCodec, TransposeCodec
    >>> image = zarr.create_array(
    ...     {},
    ...     data=np.full((3, 64, 64), 200, np.uint8),
    ...     chunks=(3, 32, 32),
    ...     filters=[TransposeCodec(order=(1, 2, 0))],
    ...     serializer=JpegCodec(level=90),
    ...     compressors=[Crc32cCodec()],
    ... )
    >>> int(image[0, 5, 5])
    200
    """

    is_fixed_size = False

    level: int = 90
    subsampling: Literal["444", "422", "420"] = "444"

    def __post_init__(self) -> None:
        if type(self.level) is not int or not 1 <= self.level <= 100:
            raise ValueError(f"level must be an integer from 1 to 100, got {self.level!r}")
        if self.subsampling not in {"444", "422", "420"}:
            raise ValueError(f"subsampling must be 444, 422 or 420, got {self.subsampling!r}")

    @classmethod
    def from_dict(cls, data: dict[str, JSON]) -> Self:
        """Make the codec that a zarr.json names.

        Raises
        ------
        ValueError
            If the configuration has other members than `level` and `subsampling`.
        """
        _, configuration = parse_named_configuration(data, _NAME, require_configuration=False)
        options = configuration or {}
        unknown = sorted(options.keys() - {"level", "subsampling"})
        if unknown:
            raise ValueError(f"{_NAME} has the members level and subsampling here, got {unknown}")
        return cls(**options)  # type: ignore[arg-type]  # checked by __post_init__

    def to_dict(self) -> dict[str, JSON]:
        """Return the codec as a member of a zarr.json."""
        return {"name": _NAME, "configuration": asdict(self)}

    def compute_encoded_size(self, _input_byte_length: int, _chunk_spec: ArraySpec) -> int:
        """Refuse: the size of a JPEG stream follows from its content.

        Raises
        ------
        NotImplementedError
            Always.
        """
        raise NotImplementedError

    def _decode_sync(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        height, width, n_samples = _image_shape(chunk_spec)
        samples = np.empty((n_samples, height, width), np.uint8)
        decode_jpeg(chunk_data.to_bytes(), samples)
        return chunk_spec.prototype.nd_buffer.from_numpy_array(np.moveaxis(samples, 0, -1))

    def _encode_sync(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        height, width, _ = _image_shape(chunk_spec)
        stream = encode_jpeg(
            np.moveaxis(chunk_data.as_numpy_array(), -1, 0),
            (height, width),
            level=self.level,
            subsampling=self.subsampling,
        )
        return chunk_spec.prototype.buffer.from_bytes(stream)

    async def _decode_single(self, chunk_data: Buffer, chunk_spec: ArraySpec) -> NDBuffer:
        return await asyncio.to_thread(self._decode_sync, chunk_data, chunk_spec)

    async def _encode_single(self, chunk_data: NDBuffer, chunk_spec: ArraySpec) -> Buffer:
        return await asyncio.to_thread(self._encode_sync, chunk_data, chunk_spec)


def _image_shape(chunk_spec: ArraySpec) -> tuple[int, int, int]:
    """Return rows, columns and samples of a chunk that is an image."""
    shape, dtype = chunk_spec.shape, chunk_spec.dtype.to_native_dtype()
    if dtype != np.uint8 or len(shape) != 3 or shape[2] not in {1, 3}:
        raise ValueError(
            f"{_NAME} needs chunks (y, x, sample) of uint8 with 1 or 3 samples, got {shape} of "
            f"{dtype}"
        )
    return shape[0], shape[1], shape[2]
