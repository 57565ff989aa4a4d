r"""How patches lie on an image, and the locally normalized image that they make.

Source: our statements; Definitions and proofs stand on the theory page `book/image-recovery.md`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from modbp.errors import InputError

BORDERS = ("zero", "periodic")


@dataclass(frozen=True)
class Patches:
    r"""The square patches :math:`x_j=D_jx` that a convolution sees.

    There is one patch around every `stride`-th pixel, whatever the size of the patches.

    Parameters
    ----------
    kernel : int, default 3
        Side of a patch, in pixels.
    stride : int, default 1
        From one patch to the next, in pixels.
    border : {"zero", "periodic"}, default "zero"
        What lies beyond the border: zeros, as in most networks; or the opposite side, where every pixel lies under
        equally many patches if the stride divides the kernel and the sides of the image.

    Raises
    ------
    InputError
        If a size is below 1, or the border is unknown.

    Examples
    --------
    >>> Patches(kernel=3).coverage(torch.ones(1, 1, 4, 4))[0].tolist()[0]
    [4.0, 6.0, 6.0, 4.0]
    """

    kernel: int = 3
    stride: int = 1
    border: str = "zero"

    def __post_init__(self) -> None:
        """Refuse sizes without a meaning."""
        for name, size in (("kernel", self.kernel), ("stride", self.stride)):
            if isinstance(size, bool) or not isinstance(size, int) or size < 1:
                raise InputError(f"{name} is {size!r}; allowed are whole numbers from 1 upwards.")
        if self.border not in BORDERS:
            raise InputError(f"border is {self.border!r}; allowed are {' and '.join(BORDERS)}.")

    def convolve(self, x: Tensor, filters: Tensor) -> Tensor:
        r"""Return :math:`w_i^\top x_j` for every filter and patch.

        Parameters
        ----------
        x : Tensor, shape (batch, channels, height, width)
        filters : Tensor, shape (filters, channels, kernel, kernel)

        Returns
        -------
        Tensor, shape (batch, filters, rows, columns)
        """
        mode = "constant" if self.border == "zero" else "circular"
        return F.conv2d(F.pad(x, (*self._margins, *self._margins), mode=mode), filters, stride=self.stride)

    def transpose(self, signal: Tensor, filters: Tensor, like: Tensor) -> Tensor:
        r"""Return :math:`\sum_{ij}h_{ij}D_j^\top w_i`, the adjoint of `convolve`.

        Parameters
        ----------
        signal : Tensor, shape (batch, filters, rows, columns)
            The numbers :math:`h_{ij}`.
        filters : Tensor, shape (filters, channels, kernel, kernel)
        like : Tensor, shape (any, channels, height, width)
            An image, for its height and width.

        Returns
        -------
        Tensor, shape (batch, channels, height, width)
        """
        sizes = like.shape[-2:]
        missed = [(size - 1) % self.stride for size in sizes]  # pixels behind the last patch
        spread = F.conv_transpose2d(signal, filters, stride=self.stride, output_padding=missed)
        before = self._margins[0]
        for dimension, size in zip((-2, -1), sizes, strict=True):
            if self.border == "zero":
                spread = spread.narrow(dimension, before, size)
            else:
                back = (torch.arange(spread.shape[dimension], device=spread.device) - before) % size
                wrapped = [size if d == spread.dim() + dimension else n for d, n in enumerate(spread.shape)]
                spread = spread.new_zeros(wrapped).index_add_(dimension, back, spread)
        return spread

    def norms(self, x: Tensor) -> Tensor:
        r"""Return :math:`\lVert x_j\rVert`, shape (batch, 1, rows, columns), in float64."""
        ones = torch.ones(1, x.shape[1], self.kernel, self.kernel, dtype=torch.float64, device=x.device)
        return self.convolve(x.double().square(), ones).clamp(min=0).sqrt()

    def coverage(self, x: Tensor) -> Tensor:
        r"""Return :math:`K_m`, how many patches that are not zero cover each pixel, shape (batch, height, width).

        Over each entry of a picture with several channels lie the same patches; a zero patch has a closed gate.
        """
        return self._spread((self.norms(x) > 0).double(), x)[:, 0]

    def normalized(self, x: Tensor) -> Tensor:
        r"""Return the locally normalized image :math:`B(x)=\sum_jD_j^\top x_j/\lVert x_j\rVert`.

        It is the mean of Guided Backprop in a random three-layer network, up to a factor
        (source: ours, theorem "The mean of Guided Backprop" of `book/image-recovery.md`).

        Parameters
        ----------
        x : Tensor, shape (batch, channels, height, width)

        Returns
        -------
        Tensor of float64, of the same shape

        Examples
        --------
        >>> x = torch.ones(1, 1, 3, 3)
        >>> Patches(kernel=1).normalized(5 * x).equal(x.double())
        True
        """
        norms = self.norms(x)
        inverse = torch.where(norms > 0, 1 / norms, 0.0)
        return x.double() * self._spread(inverse, x)

    def _spread(self, values: Tensor, x: Tensor) -> Tensor:
        """Add a number of each patch to all pixels under it, shape (batch, 1, height, width)."""
        ones = torch.ones(1, 1, self.kernel, self.kernel, dtype=values.dtype, device=values.device)
        return self.transpose(values, ones, x)

    @property
    def _margins(self) -> tuple[int, int]:
        return (self.kernel - 1) // 2, self.kernel // 2


def signal_to_noise(x: Tensor, n_filters: int, patches: Patches) -> Tensor:
    r"""Return the signal-to-noise ratio of Guided Backprop in a random three-layer network, to leading order.

    .. math:: \mathrm{SNR}_B=\frac{N\lVert B(x)\rVert^2}{\pi^2\sum_mK_m}

    The exact ratio is this over 1 + δ, with δ from `noise_correction`. Source: ours, theorem "The noise of Guided
    Backprop" of `book/image-recovery.md`.

    Parameters
    ----------
    x : Tensor, shape (batch, channels, height, width)
    n_filters : int
    patches : Patches

    Returns
    -------
    Tensor of float64, shape (batch,)

    Examples
    --------
    >>> x = torch.ones(1, 3, 8, 8)  # where all norms are equal it is N / (π² · channels · stride²)
    >>> round(float(signal_to_noise(x, 64, Patches(3, border="periodic"))), 3)
    2.162
    """
    power = patches.normalized(x).flatten(1).square().sum(1)
    return n_filters * power / (math.pi**2 * _entries(x, patches))


def gradient_variance(x: Tensor, n_filters: int, patches: Patches) -> Tensor:
    r"""Return the variance of the gradient's entries in a random three-layer network, :math:`NK_m/2`.

    Exact for every number of filters, as the mean over networks. Source: ours, theorem "The gradient is noise" of
    `book/image-recovery.md`.

    Parameters
    ----------
    x : Tensor, shape (batch, channels, height, width)
    n_filters : int
    patches : Patches

    Returns
    -------
    Tensor of float64, shape (batch, 1, height, width)

    Examples
    --------
    >>> gradient_variance(torch.ones(1, 3, 4, 4), 2, Patches(kernel=3))[0, 0, 0].tolist()
    [4.0, 6.0, 6.0, 4.0]
    """
    return n_filters / 2 * patches.coverage(x)[:, None]


def noise_correction(x: Tensor, patches: Patches) -> Tensor:
    r"""Return δ, by which the exact noise of Guided Backprop differs from its leading order.

    .. math::
        \delta=\frac{T-\lVert B\rVert^2}{\pi^2\sum_mK_m},\qquad
        T=\sum_{j\neq l}\operatorname{tr}(D_j^\top S_{jl}D_l),\qquad
        S_{jl}=\frac{\hat x_j\hat x_l^\top+\hat x_l\hat x_j^\top
        -\cos\theta\,(\hat x_j\hat x_j^\top+\hat x_l\hat x_l^\top)}{\sin\theta}

    Only patches that overlap contribute, so the double sum runs over their displacements. Source: ours, theorem "The
    noise of Guided Backprop" of `book/image-recovery.md`.

    Parameters
    ----------
    x : Tensor, shape (batch, channels, height, width)
    patches : Patches
        With a periodic border, where patches have as many neighbors on all sides and none overlaps itself: the kernel
        and the sides of the image are multiples of the stride, and the kernel is at most half a side.

    Returns
    -------
    Tensor of float64, shape (batch,)

    Raises
    ------
    InputError
        If the border is another one or the sizes do not fit.

    Examples
    --------
    >>> _ = torch.manual_seed(0)  # a white image: about -1 / (π² · entries of a patch)
    >>> round(float(noise_correction(torch.randn(1, 3, 24, 24), Patches(3, border="periodic"))), 3)
    -0.005
    """
    k, r = patches.kernel, patches.stride
    height, width = x.shape[2:]
    if patches.border != "periodic" or height % r or width % r or 2 * k > min(height, width):
        raise InputError(
            f"the patches are {patches} on {height} × {width} pixels; allowed is a periodic border, a stride that"
            " divides both sides, and a kernel of at most half a side."
        )
    x, norms = x.double(), patches.norms(x)[:, 0]
    # With a = x_j, b = x_l the trace over the shared entries m is, before the division by sin θ,
    #   Σ x_m²/(|a||b|) + Σ b_m' a_m''/(|a||b|) − cos θ Σ (a_m a_m''/|a|² + b_m' b_m/|b|²),
    # where m is the entry's place in the image under each of the two patches.
    offsets = range(-((k - 1) // r) * r, k, r)
    total = x.new_zeros(len(x))
    windows = _windows(x, patches)  # (batch, rows, columns, channels, kernel, kernel)
    units = torch.where(norms[..., None, None, None] > 0, windows / norms[..., None, None, None], 0.0)
    for down in offsets:
        for right in offsets:
            if (down, right) <= (0, 0):
                continue  # the opposite displacement has the same trace, as S is symmetric
            other = units.roll((-down // r, -right // r), (1, 2))
            cosine = (units * other).sum((-3, -2, -1)).clamp(-1, 1)
            sine = (1 - cosine.square()).sqrt()
            # An entry at place p of patch j lies at place p - (down, right) of patch l.
            here = (..., slice(max(down, 0), k + min(down, 0)), slice(max(right, 0), k + min(right, 0)))
            there = (..., slice(max(-down, 0), k + min(-down, 0)), slice(max(-right, 0), k + min(-right, 0)))
            trace = (
                (units[here] * other[there]).sum((-3, -2, -1))
                + (other[here] * units[there]).sum((-3, -2, -1))
                - cosine * (units[here] * units[there] + other[here] * other[there]).sum((-3, -2, -1))
            )
            total += 2 * torch.where(sine > 1e-9, trace / sine, 0.0).sum((1, 2))
    power = patches.normalized(x).flatten(1).square().sum(1)
    return (total - power) / (math.pi**2 * _entries(x, patches))


def _entries(x: Tensor, patches: Patches) -> Tensor:
    r"""Return :math:`\sum_mK_m` over all channels, shape (batch,)."""
    return x.shape[1] * patches.coverage(x).flatten(1).sum(1)


def _windows(x: Tensor, patches: Patches) -> Tensor:
    k, r = patches.kernel, patches.stride
    before, after = (k - 1) // 2, k // 2
    padded = F.pad(x, (before, after, before, after), mode="circular")
    return padded.unfold(2, k, r).unfold(3, k, r).permute(0, 2, 3, 1, 4, 5)
