"""Damages small images of every kind and reads them; one process, under limits of memory and time.

Run as ``python image_mutants.py FIRST COUNT DIRECTORY``. Prints a JSON object: how often each
outcome occurred, and every case that ended otherwise than in the right shape or in an ImageError.
The number of the case at hand stands in ``DIRECTORY/case``, for when the process does not survive.
"""

import io
import json
import random
import resource
import signal
import struct
import sys
import zlib
from collections import Counter
from pathlib import Path

import imagecodecs
import numpy as np
import tifffile
from PIL import Image as Pillow

from stformat.errors import ImageError
from stformat.sources._image import open_image

MEMORY = 512 * 2**20
CPU_SECONDS = 5
OME_CHANNELS = '<Channel ID="c:0" Name="DAPI"/><Channel ID="c:1"/><Channel ID="c:2" Name="CD45"/>'
MAX_PIXELS = 10**9


def pixels(samples, dtype=np.uint8, height=50, width=70):
    rng = np.random.default_rng(samples)
    y, x = np.mgrid[:height, :width]
    wave = (
        np.sin(y / 9)[..., None] + np.cos(x / 7)[..., None] + rng.random((height, width, samples))
    )
    top = np.iinfo(dtype).max
    return np.squeeze(((wave + 2) / 5 * top).astype(dtype))


def saved(picture, kind, **options):
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return buffer.getvalue()


def tiff(array, **options):
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, array, **({"metadata": None} | options))
    return buffer.getvalue()


def with_entry(content, tag, value):
    """Set a tag of the first page that holds one number of 16 bits."""
    content = bytearray(content)
    with tifffile.TiffFile(io.BytesIO(content)) as parsed:
        entry = parsed.pages.first.tags[tag]
    struct.pack_into("<H", content, entry.offset + 8, value)
    return bytes(content)


def ycbcr_lzw():
    """YCbCr blocks of 2 x 2 pixels, for which tifffile has no writer."""
    blocks = pixels(6)[:25, :35].reshape(25, 35 * 6)
    data = bytes(imagecodecs.lzw_encode(blocks.tobytes()))
    tags = [
        (256, 4, 1, 70), (257, 4, 1, 50), (258, 3, 1, 8), (259, 3, 1, 5), (262, 3, 1, 6),
        (273, 4, 1, 200), (277, 3, 1, 3), (278, 4, 1, 50), (279, 4, 1, len(data)),
        (530, 3, 2, 2 | 2 << 16),
    ]  # fmt: skip
    head = struct.pack("<4sIH", b"II*\0", 8, len(tags))
    body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return (head + body + bytes(4)).ljust(200, b"\0") + data


def seeds():
    """Name an image, and say what stain it is read as."""
    rgb = Pillow.fromarray(pixels(3))
    bilevel = Pillow.fromarray(pixels(1) > 120)
    tiled = {"photometric": "rgb", "tile": (32, 32)}
    made = {
        "jpeg": saved(rgb, "jpeg"),
        "jpeg gray": saved(rgb.convert("L"), "jpeg"),
        "jpeg 4:4:4": saved(rgb, "jpeg", subsampling=0),
        "jpeg progressive": saved(rgb, "jpeg", progressive=True),
        "jpeg restarts": saved(rgb, "jpeg", restart_marker_rows=1),
        "png": saved(rgb, "png"),
        "png palette": saved(rgb.quantize(16), "png", bits=4),
        "png opacity": saved(rgb.convert("LA"), "png"),
        "png bilevel": saved(bilevel, "png"),
        "png 16": bytes(imagecodecs.png_encode(pixels(3, np.uint16))),
        "tiff": tiff(pixels(3), photometric="rgb"),
        "tiff planes": tiff(
            np.moveaxis(pixels(3), -1, 0), photometric="rgb", planarconfig="separate"
        ),
        "tiff strips": tiff(pixels(3), photometric="rgb", rowsperstrip=7),
        "tiff 16": tiff(pixels(1, np.uint16), compression="lzw", predictor=True, byteorder=">"),
        "tiff alpha": tiff(pixels(4), extrasamples=["unassalpha"], **tiled),
        "tiff pyramid": pyramid(),
        "tiff palette": saved(rgb.quantize(256), "tiff"),
        "tiff bits": saved(bilevel, "tiff"),
        "tiff ycbcr": ycbcr_lzw(),
        "tiff signed": tiff(pixels(1).astype(np.int8) & 127, compression="zlib"),
        "bigtiff": tiff(pixels(3), compression="zlib", bigtiff=True, byteorder=">", **tiled),
        "aperio": with_entry(tiff(pixels(3), compression="jpeg2000", **tiled), 259, 33005),
        "aperio ycbcr": with_entry(tiff(pixels(3), compression="jpeg2000", **tiled), 259, 33003),
        "old jpeg": with_entry(
            tiff(pixels(3), photometric="ycbcr", compression="jpeg", subsampling=(1, 1)), 259, 6
        ),
    }
    for compression in ("zlib", "lzw", "zstd", "packbits", "jpeg", "jpeg2000", "webp"):
        made[f"tiff {compression}"] = tiff(pixels(3), compression=compression, **tiled)
    for compression in ("group3", "group4", "tiff_ccitt"):
        made[f"tiff {compression}"] = saved(bilevel, "tiff", compression=compression)
    made["tiff group3 rows above"] = saved(bilevel, "tiff", compression="group3", tiffinfo={292: 1})
    channels = np.stack([pixels(1)] * 3)
    named = {"axes": "CYX", "Channel": {"Name": ["DAPI", "CD3", "CD45"]}}
    fluorescent = {
        "ome": tiff(channels, photometric="minisblack", metadata=named, ome=True),
        "imagej": tiff(channels, metadata={"axes": "CYX"}, imagej=True),
        "samples": tiff(pixels(5), photometric="minisblack", planarconfig="contig"),
    }
    return [(name, content, "he") for name, content in made.items()] + [
        (name, content, "if") for name, content in fluorescent.items()
    ]


def pyramid():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(pixels(3), photometric="rgb", tile=(16, 16), compression="zlib", subifds=1)
        writer.write(pixels(3)[::2, ::2], photometric="rgb", subfiletype=1)
        writer.write(pixels(3)[::2, ::2], photometric="rgb", subfiletype=1)
    return buffer.getvalue()


NUMBERS = (0, 1, 2, 3, 4, 7, 8, 16, 255, 256, 32767, 32768, 65535, 2**31 - 1, 2**31, 2**32 - 1)


def damaged(content, rng):
    """Damage an image in one to four ways."""
    content = bytearray(content)
    for _ in range(rng.choice([1, 1, 1, 2, 4])):
        rng.choice([flip, cut, swap, edit, edit, repeat, zero])(content, rng)
    if content[:4] == b"\x89PNG" and rng.random() < 0.7:
        restore_checksums(content)
    return bytes(content)


def place(content, rng):
    """Choose a place; headers are where it hurts, and may lie at either end."""
    size = len(content)
    start, stop = rng.choice([(0, 400), (size - 400, size), (0, size)])
    return rng.randrange(max(0, start), max(1, min(stop, size)))


def flip(content, rng):
    for _ in range(rng.choice([1, 1, 3, 20])):
        if content:
            content[place(content, rng)] ^= 1 << rng.randrange(8)


def cut(content, rng):
    del content[place(content, rng) :]


def swap(content, rng):
    size = rng.choice([1, 2, 4, 12, 100])
    first, second = sorted((place(content, rng), place(content, rng)))
    one, other = content[first : first + size], content[second : second + size]
    if second >= first + size and len(one) == len(other):
        content[first : first + size], content[second : second + size] = other, one


def edit(content, rng):
    kind = rng.choice(["<B", "<H", ">H", "<I", ">I", "<Q", ">Q"])
    size = struct.calcsize(kind)
    at = place(content, rng) & ~1
    if at + size <= len(content):
        number = rng.choice([*NUMBERS, rng.randrange(2 ** (8 * size))]) % 2 ** (8 * size)
        struct.pack_into(kind, content, at, number)


def repeat(content, rng):
    at = place(content, rng)
    size = rng.choice([1, 4, 12, 64])
    content[at:at] = content[at : at + size]


def zero(content, rng):
    at = place(content, rng)
    size = min(rng.choice([1, 4, 12, 64]), len(content) - at)
    content[at : at + size] = bytes(size)


def restore_checksums(content):
    """Let damaged PNG data pass the checksums, so that the decoder sees them."""
    at = 8
    while at + 12 <= len(content):
        length = int.from_bytes(content[at : at + 4])
        stop = at + 8 + length
        if stop + 4 > len(content):
            return
        content[stop : stop + 4] = zlib.crc32(content[at + 4 : stop]).to_bytes(4)
        at = stop + 4


def read(path, stain, scratch):
    """Read an image; say what became of it."""
    try:
        image = open_image(path, stain=stain, scratch=scratch, max_pixels=MAX_PIXELS)
        n_rows = 0
        for band in image.iter_bands(256):
            assert band.dtype == image.dtype
            assert (band.shape[0], band.shape[2]) == (image.shape[0], image.shape[2])
            n_rows += band.shape[1]
        assert n_rows == image.shape[1]
        assert len(image.channel_names) == len(set(image.channel_names)) == image.shape[0]
    except ImageError as error:
        (problem,) = error.problems
        assert problem.code.startswith("image.")
        return problem.code
    return "read"


def limit_memory():
    """Let this process allocate no more than the contract allows."""
    status = Path("/proc/self/status")
    if status.exists():
        used = next(line for line in status.read_text().splitlines() if line.startswith("VmData"))
        limit = int(used.split()[1]) * 1024 + MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def n_descriptors():
    folder = Path("/proc/self/fd")
    return len(list(folder.iterdir())) if folder.exists() else 0


def main(first, count, directory):
    known = seeds()
    path, scratch, case = directory / "image", directory / "scratch", directory / "case"
    scratch.mkdir()
    outcomes, failures = Counter(), []
    for name, content, stain in known:
        path.write_bytes(content)
        if (outcome := read(path, stain, scratch)) != "read":
            failures.append(f"undamaged {name}: {outcome}")
    n_open = n_descriptors()
    limit_memory()
    for number in range(first, first + count):
        rng = random.Random(number)
        name, content, stain = known[number % len(known)]
        case.write_text(f"{number} {name}")
        path.write_bytes(damaged(content, rng))
        # Ends the process: decoders do not come back to Python to be interrupted.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)
        try:
            outcomes[read(path, stain, scratch)] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            failures.append(f"{number} {name}: {type(error).__name__}: {error}")
    signal.setitimer(signal.ITIMER_PROF, 0)
    left = sorted(path.name for path in directory.rglob("*"))
    if left != ["case", "image", "scratch"]:
        failures.append(f"left behind: {left}")
    if n_descriptors() != n_open:
        failures.append(f"descriptors: {n_descriptors()} open, {n_open} before")
    json.dump({"outcomes": outcomes, "failures": failures}, sys.stdout)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
