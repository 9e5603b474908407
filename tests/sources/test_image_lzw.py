"""LZW data that would take the decoder through memory it never set are refused first."""

import numpy as np
import pytest
import tifffile

from stformat.errors import ImageError
from stformat.sources._image import open_image


def packed(*codes):
    """Pack codes of 9 bits."""
    bits = "".join(format(code, "09b") for code in codes)
    n_bytes = -(-len(bits) // 8)
    return int(bits.ljust(8 * n_bytes, "0"), 2).to_bytes(n_bytes)


def test_a_tiff_with_such_codes(tmp_path):
    path = tmp_path / "a.tif"
    tifffile.imwrite(
        path, iter([packed(256, 65, 256, 422, 66, 257)]), shape=(2, 2), dtype=np.uint8,
        compression="lzw", photometric="minisblack",
    )  # fmt: skip
    with pytest.raises(ImageError) as caught:
        list(open_image(path).iter_bands(2))
    assert caught.value.problems[0].code == "image.corrupt"
