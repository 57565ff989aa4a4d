"""Photographs: the labeled ones that come with an installed package, or a folder of one's own."""

from __future__ import annotations

import importlib.util
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from modbp.errors import InputError
from modbp.files import expand

if TYPE_CHECKING:
    from PIL.Image import Image

EMBEDDED = "embedded"
SMALLEST_SIDE = 16
"""In pixels. A smaller picture holds nothing that a network could see or a map could show."""


@dataclass(frozen=True)
class Photograph:
    """A picture, ready for a model's `transform`.

    Parameters
    ----------
    name : str
        The file's name.
    image : PIL.Image.Image
        In mode RGB, upright.
    label : int or None
        The ImageNet class, 0 to 999, where it is known.
    """

    name: str
    image: Image
    label: int | None = None


def load(source: str | Path = EMBEDDED, n: int | None = None) -> list[Photograph]:
    """Load labeled ImageNet photographs, or the pictures of a folder.

    A picture that cannot be read, or is too small, is named in a warning and left out. Pictures that are not plain
    RGB are converted, which a warning says: gray ones are repeated over the three channels, transparent ones are laid
    on white.

    Parameters
    ----------
    source : str or Path, default "embedded"
        `"embedded"` for the 20 ImageNet photographs in the package `foolbox`, whose file names hold their labels; or
        a folder.
    n : int, optional
        Return only the first `n`, in the order of their names; by default all.

    Returns
    -------
    list of Photograph

    Raises
    ------
    InputError
        If the folder does not exist or holds no usable picture, or `n` is not a whole number from 1 upwards.

    Examples
    --------
    >>> [photograph.label for photograph in load("embedded", n=3)]
    [243, 559, 438]
    """
    if n is not None and (isinstance(n, bool) or not isinstance(n, int) or n < 1):
        raise InputError(f"n is {n!r}; allowed are whole numbers from 1 upwards.")
    found: list[Photograph] = []
    skipped: list[str] = []
    for path in files(source):
        if n is not None and len(found) == n:
            break
        try:
            image = decode(path.name, path)
        except UnusableError as reason:
            skipped.append(path.name)
            _note(f"left out {path.name}: {reason}")
        else:
            found.append(Photograph(path.name, image, _label(path) if str(source) == EMBEDDED else None))
    if not found:
        left_out = f" ({', '.join(skipped[:5])} could not be used)" if skipped else ""
        folder = embedded_folder() if str(source) == EMBEDDED else expand(source)
        raise InputError(
            f"the folder '{folder}' holds no usable picture{left_out}; allowed are JPEG, PNG, WebP and what else Pillow"
            f" reads, at least {SMALLEST_SIDE} pixels on each side."
        )
    return found


def embedded_folder() -> Path:
    """Return the folder of photographs in the installed package `foolbox`.

    Returns
    -------
    Path

    Raises
    ------
    InputError
        If the package is not installed.

    Examples
    --------
    >>> embedded_folder().name
    'data'
    """
    spec = importlib.util.find_spec("foolbox")  # found, not imported: only its data are wanted
    if spec is None or not spec.submodule_search_locations:
        raise InputError("the embedded photographs need foolbox; install it with: pip install 'modbp[embedded]'.")
    return Path(next(iter(spec.submodule_search_locations))) / "data"


def files(source: str | Path = EMBEDDED) -> list[Path]:
    """Return the files of pictures in a folder, in the order of their names; none of them is opened.

    Parameters
    ----------
    source : str or Path, default "embedded"
        As for `load`.

    Returns
    -------
    list of Path

    Raises
    ------
    InputError
        If the folder does not exist.

    Examples
    --------
    >>> len(files())
    20
    """
    embedded = str(source) == EMBEDDED
    folder = embedded_folder() if embedded else expand(source)
    if not folder.exists():
        raise InputError(f"the image folder '{folder}' does not exist; allowed is a folder, or \"{EMBEDDED}\".")
    if not folder.is_dir():
        raise InputError(f"images is the file '{folder}'; allowed is a folder of pictures, or \"{EMBEDDED}\".")
    suffixes = _suffixes()
    named = sorted(folder.glob("imagenet_*.jpg" if embedded else "*"))
    return [p for p in named if not p.name.startswith(".") and p.is_file() and p.suffix.lower() in suffixes]


class UnusableError(InputError):
    """Why a picture cannot be used."""


def _note(message: str) -> None:
    warnings.warn(message, UserWarning, stacklevel=3)


def _suffixes() -> frozenset[str]:
    from PIL import Image

    # MPO, the format of some cameras, is read as JPEG; the others without a reader are only written.
    return frozenset(s for s, kind in Image.registered_extensions().items() if kind in Image.OPEN or kind == "MPO")


def _label(path: Path) -> int | None:
    match = re.fullmatch(r"imagenet_\d+_(\d+)", path.stem)
    return int(match.group(1)) if match else None


def decode(name: str, file: Path | BinaryIO) -> Image:
    """Return a picture from its file, or from the bytes that it holds: in mode RGB, upright.

    Parameters
    ----------
    name : str
        What warnings call it.
    file : Path or binary file

    Returns
    -------
    PIL.Image.Image

    Raises
    ------
    UnusableError
        If Pillow cannot read it, or it is too small.

    Examples
    --------
    >>> import io
    >>> decode("a.png", io.BytesIO(b"no picture"))
    Traceback (most recent call last):
        ...
    modbp.images.UnusableError: it is no picture that Pillow can read (UnidentifiedImageError); is it damaged?
    """
    from PIL import Image, ImageOps

    try:
        with Image.open(file) as opened:
            opened.load()
            upright = ImageOps.exif_transpose(opened)
    except Exception as error:  # Pillow's readers raise whatever their format makes them: OSError, SyntaxError, ...
        raise UnusableError(f"it is no picture that Pillow can read ({type(error).__name__}); is it damaged?") from None
    if min(upright.size) < SMALLEST_SIDE:
        width, height = upright.size
        raise UnusableError(f"it has {width} × {height} pixels; allowed are at least {SMALLEST_SIDE} on each side.")
    return _as_rgb(upright, name)


def _as_rgb(image: Image, name: str) -> Image:
    from PIL import Image

    if "A" in image.getbands() or "transparency" in image.info:
        _note(f"{name} has transparency: it is laid on white.")
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    if image.mode == "RGB":
        return image
    if image.mode in ("1", "L", "I", "F") or image.mode.startswith("I;"):
        _note(f"{name} is grayscale: its one channel is used as red, green and blue.")
        return _eight_bits(image).convert("RGB")
    _note(f"{name} has {'a palette' if image.mode == 'P' else f'mode {image.mode}'}: it is converted to RGB.")
    return image.convert("RGB")


def _eight_bits(image: Image) -> Image:
    """Scale what has more than eight bits per pixel; Pillow would cut it off at 255."""
    if image.mode in ("1", "L"):
        return image
    gray = image.convert("F")
    # Where the file does not say which value is white, the brightest is.
    low, high = (0.0, 65535.0) if image.mode.startswith("I;16") else gray.getextrema()
    scale = 255 / (high - low) if high > low else 1.0  # type: ignore[operator]
    return gray.point(lambda v: v * scale - low * scale).convert("L")  # type: ignore[operator]
