"""Random changes of tiles, each decided by its seed, epoch and row alone."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
from numpy.typing import NDArray

__all__ = ["Augmentation", "Changes"]

MOST_CHANGE = 0.5
"""Most that an amount may be: no stain vanishes, no light goes out."""

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

# Optical densities (r, g, b) of haematoxylin, of eosin, and of what is at right angles to both:
# A. C. Ruifrok and D. A. Johnston, "Quantification of histochemical staining by color
# deconvolution", Anal. Quant. Cytol. Histol. 23 (2001), table 1.
_STAINS = np.array([[0.650, 0.704, 0.286], [0.072, 0.990, 0.105], [0.0, 0.0, 0.0]])
_STAINS[2] = np.cross(_STAINS[0], _STAINS[1])
_STAINS /= np.linalg.norm(_STAINS, axis=1, keepdims=True)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Changes:
    """What happens to each tile of a batch."""

    flips: NDArray[np.bool_]
    """(n, 2) whether left and right, top and bottom are swapped."""

    turns: NDArray[np.int64]
    """(n,) quarter turns counter-clockwise, after that."""

    stains: NDArray[np.float64] | None
    """(n, 3, 4) what becomes of optical densities, as `stformat.kernels.change_stains` takes it;
    None where colours stay."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Augmentation:
    """Random changes of tiles during training.

    What happens to a tile depends on the loader's seed, the epoch, the slide and the row, not on
    batches or workers. Amounts are drawn evenly from their range.

    Raises
    ------
    ValueError
        If an amount is not from 0 to 0.5.
    TypeError
        If an amount is no number, or `flips` or `turns` is neither True nor False.

    Notes
    -----
    Stains are separated in optical density into haematoxylin, eosin and what remains [1]_; each is
    multiplied by ``1 +- stain_scale`` and raised by ``+- stain_shift`` [2]_. ``brightness`` is a
    light of ``1 +- brightness``. Such changes are for brightfield images of three channels.

    References
    ----------
    .. [1] A. C. Ruifrok and D. A. Johnston, Anal. Quant. Cytol. Histol. 23 (2001).
    .. [2] D. Tellez et al., "Whole-slide mitosis detection in H&E breast histology using PHH3 as a
       reference to train distilled stain-invariant convolutional networks", IEEE Trans. Med.
       Imaging 37 (2018).

    Examples
    --------
    >>> Augmentation(stain_scale=0.05, stain_shift=0.02).changes_colours
    True
    """

    flips: bool = True
    """Swap left and right, and top and bottom, of every second tile."""

    turns: bool = True
    """Turn by quarters."""

    stain_scale: float = 0.0
    """Most that a stain's amount changes, as a share of it."""

    stain_shift: float = 0.0
    """Most that is added to or taken from the density of a stain, in natural units."""

    brightness: float = 0.0
    """Most that the light changes, as a share of it."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            is_truth = isinstance(value, bool | np.bool_)
            if isinstance(field.default, bool):
                if not is_truth:
                    raise TypeError(f"{field.name} must be True or False, got {value!r}")
                continue
            if is_truth or not isinstance(value, int | float | np.number):
                raise TypeError(f"{field.name} must be a number, got {value!r}")
            if not 0 <= value <= MOST_CHANGE:
                raise ValueError(f"{field.name} must be from 0 to {MOST_CHANGE}, got {value}")

    @property
    def changes_colours(self) -> bool:
        """Whether colours change, which needs brightfield images."""
        return max(self.stain_scale, self.stain_shift, self.brightness) > 0

    def draw(
        self,
        *,
        seed: int,
        epoch: int,
        slide: NDArray[np.int64],
        row: NDArray[np.int64],
        occurrence: NDArray[np.int64],
    ) -> Changes:
        """Decide what happens to tiles.

        Parameters
        ----------
        seed, epoch : int
            Of the loader.
        slide, row, occurrence : (n,) ndarray of int64
            Which tile it is: slide, row of its table, and how often the epoch had it before.

        Returns
        -------
        Changes
            One of everything a tile.
        """
        bits = np.full(len(slide), np.uint64(seed % 2**64))
        for part in (np.int64(epoch), slide, row, occurrence):
            bits = _mixed(bits ^ np.asarray(part).astype(np.uint64))
        flips = np.stack([_drawn(bits, number) < 0.5 for number in (0, 1)], axis=1)
        turns = (_drawn(bits, 2) * 4).astype(np.int64)
        return Changes(
            flips=flips & self.flips,
            turns=turns if self.turns else np.zeros_like(turns),
            stains=self._stains(bits) if self.changes_colours else None,
        )

    def _stains(self, bits: NDArray[np.uint64]) -> NDArray[np.float64]:
        around = np.stack([2 * _drawn(bits, number) - 1 for number in range(3, 10)], axis=1)
        scales = 1 + self.stain_scale * around[:, :3]
        shifts = self.stain_shift * around[:, 3:6]
        light = -np.log1p(self.brightness * around[:, 6])
        # Rows of densities: d @ inverse is the amount of each stain, amounts @ _STAINS densities.
        inverse = np.linalg.inv(_STAINS)
        changes = np.empty((len(bits), 3, 4))
        changes[:, :, :3] = np.einsum("rs,ns,sc->ncr", inverse, scales, _STAINS)
        changes[:, :, 3] = shifts @ _STAINS + light[:, np.newaxis]
        return changes


def _drawn(bits: NDArray[np.uint64], number: int) -> NDArray[np.float64]:
    """Return a number from 0 to below 1 for each tile, other ones for each `number`."""
    counter = np.uint64((number + 1) * int(_GOLDEN) % 2**64)
    return (_mixed(bits + counter) >> np.uint64(11)).astype(np.float64) * 2.0**-53


def _mixed(bits: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Mix bits as SplitMix64 does, whose sums wrap around on purpose."""
    bits = bits + _GOLDEN
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))
