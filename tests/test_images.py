"""Photographs: the embedded ones, a folder of one's own, and pictures that need care or cannot be used."""

from __future__ import annotations

import gc
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modbp import images
from modbp.errors import InputError

SIDE = 24


def ramp() -> np.ndarray[Any, Any]:
    """Gray values that differ from pixel to pixel, shape (SIDE, SIDE)."""
    return (np.arange(SIDE * SIDE).reshape(SIDE, SIDE) % 256).astype(np.uint8)


def picture(path: Path, size: tuple[int, int] = (SIDE, SIDE), color: tuple[int, int, int] = (200, 30, 10)) -> Path:
    Image.new("RGB", size, color).save(path)
    return path


def one_sentence(message: str) -> bool:
    return "\n" not in message and message.endswith(".") and "Traceback" not in message


def load_with_notes(folder: Path) -> tuple[list[images.Photograph], list[str]]:
    gc.collect()  # what other tests have left, or its warnings might be among the notes
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = images.load(folder)
    return found, [str(warning.message) for warning in caught]


def test_the_embedded_photographs_carry_the_labels_of_their_file_names() -> None:
    photographs = images.load()
    assert len(photographs) == 20
    for photograph in photographs:
        assert photograph.image.mode == "RGB"
        assert min(photograph.image.size) >= 224
        assert photograph.name == f"imagenet_{photograph.name.split('_')[1]}_{photograph.label}.jpg"
        assert photograph.label is not None
        assert 0 <= photograph.label <= 999
    assert [p.name for p in photographs] == sorted(p.name for p in photographs)
    assert len({p.image.tobytes() for p in photographs}) == 20


def test_n_takes_the_first_by_name_and_no_more_than_there_are() -> None:
    names = [photograph.name for photograph in images.load()]
    assert [photograph.name for photograph in images.load("embedded", n=3)] == names[:3]
    assert len(images.load(n=10_000)) == 20


@pytest.mark.parametrize("n", [0, -1, True, False, "3", 2.0])
def test_n_must_be_a_whole_number_from_one(n: Any) -> None:
    with pytest.raises(InputError) as caught:
        images.load(n=n)
    assert repr(n) in str(caught.value)
    assert "from 1 upwards" in str(caught.value)
    assert one_sentence(str(caught.value))


def test_a_folder_of_ones_own(tmp_path: Path) -> None:
    for name in ("b.png", "a.JPG", "c d é 图.jpeg", "imagenet_01_7.jpg", "e.webp"):
        picture(tmp_path / name)
    picture(tmp_path / "b.png").rename(tmp_path / ".hidden.png")
    picture(tmp_path / "b.png")
    (tmp_path / "notes.txt").write_text("no picture")
    (tmp_path / "a report.pdf").write_bytes(b"%PDF-1.4")
    (tmp_path / "no suffix").write_text("no picture")
    (tmp_path / "folder.png").mkdir()
    found, notes = load_with_notes(tmp_path)
    assert [p.name for p in found] == ["a.JPG", "b.png", "c d é 图.jpeg", "e.webp", "imagenet_01_7.jpg"]
    assert notes == []
    assert {p.label for p in found} == {None}, "a file name of one's own is no label"
    assert [p.name for p in images.load(str(tmp_path), n=2)] == ["a.JPG", "b.png"]


def test_the_home_folder_may_be_abbreviated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine").mkdir()
    picture(tmp_path / "mine" / "a.png")
    assert len(images.load("~/mine")) == 1


def fill_with_nothing(folder: Path) -> None:
    folder.mkdir()


def fill_with_text(folder: Path) -> None:
    folder.mkdir()
    (folder / "a.txt").write_text("text")


def fill_with_a_file(folder: Path) -> None:
    folder.write_text("text")


def leave_missing(folder: Path) -> None:
    pass


@pytest.mark.parametrize(
    ("fill", "said"),
    [
        (leave_missing, "does not exist"),
        (fill_with_a_file, "is the file"),
        (fill_with_nothing, "holds no usable picture;"),
        (fill_with_text, "holds no usable picture;"),
    ],
)
def test_a_folder_that_holds_no_picture(fill: Any, said: str, tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    fill(folder)
    with pytest.raises(InputError) as caught:
        images.load(folder)
    message = str(caught.value)
    assert str(folder) in message
    assert said in message
    assert "allowed" in message
    assert one_sentence(message)


def damaged(folder: Path) -> list[str]:
    """Write four files that are no pictures, whatever their names say, and return these names."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / "cut.jpg")
    whole = (folder / "cut.jpg").read_bytes()
    (folder / "cut.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "noise.jpeg").write_bytes(bytes(range(256)) * 4)
    picture(folder / "one pixel.png", (1, 1))
    return ["cut.jpg", "empty.png", "noise.jpeg", "one pixel.png"]


def test_damaged_pictures_are_named_and_the_others_load(tmp_path: Path) -> None:
    bad = damaged(tmp_path)
    picture(tmp_path / "a good.png")
    picture(tmp_path / "z good.png", color=(0, 0, 255))
    found, notes = load_with_notes(tmp_path)
    assert [p.name for p in found] == ["a good.png", "z good.png"]
    assert len(notes) == len(bad)
    for name, note in zip(bad, notes, strict=True):
        assert note.startswith(f"left out {name}: ")
        assert "\n" not in note
    assert "1 × 1 pixels" in notes[-1]
    assert f"at least {images.SMALLEST_SIDE}" in notes[-1]


def test_only_damaged_pictures_are_an_error_that_names_them(tmp_path: Path) -> None:
    bad = damaged(tmp_path)
    with pytest.warns(UserWarning, match="left out"), pytest.raises(InputError) as caught:
        images.load(tmp_path)
    assert all(name in str(caught.value) for name in bad)
    assert one_sentence(str(caught.value))


def test_the_smallest_picture_that_is_used(tmp_path: Path) -> None:
    picture(tmp_path / "a.png", (images.SMALLEST_SIDE, 400))
    picture(tmp_path / "b.png", (400, images.SMALLEST_SIDE - 1))
    found, notes = load_with_notes(tmp_path)
    assert [p.name for p in found] == ["a.png"]
    assert len(notes) == 1


def test_a_damaged_picture_does_not_count_towards_n(tmp_path: Path) -> None:
    damaged(tmp_path)
    for name in ("x.png", "y.png", "z.png"):
        picture(tmp_path / name)
    with pytest.warns(UserWarning, match="left out"):
        assert [p.name for p in images.load(tmp_path, n=2)] == ["x.png", "y.png"]


def only(folder: Path) -> tuple[np.ndarray[Any, Any], list[str]]:
    """Return the pixels of a folder's only picture, and the notes about it."""
    (found,), notes = load_with_notes(folder)
    assert found.image.mode == "RGB"
    return np.asarray(found.image).astype(int), notes


def test_gray_is_repeated(tmp_path: Path) -> None:
    Image.fromarray(ramp()).save(tmp_path / "a.png")
    pixels, notes = only(tmp_path)
    assert (pixels == ramp()[..., None]).all()
    assert len(notes) == 1
    assert notes[0].startswith("a.png is grayscale")


def test_black_and_white_is_gray(tmp_path: Path) -> None:
    Image.fromarray(ramp() > 100).save(tmp_path / "a.png")
    pixels, notes = only(tmp_path)
    assert (pixels == 255 * (ramp() > 100)[..., None]).all()
    assert "grayscale" in notes[0]


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("values", [(0, 65535), (1000, 3000), (30000, 30000), (65535, 65535)])
def test_sixteen_bits_keep_their_brightness(values: tuple[int, int], suffix: str, tmp_path: Path) -> None:
    """Neither cut off to white at 255 nor stretched: 65535 is white."""
    gray = np.linspace(*values, SIDE * SIDE).reshape(SIDE, SIDE).round().astype(np.uint16)
    Image.fromarray(gray).save(tmp_path / f"a.{suffix}")
    pixels, notes = only(tmp_path)
    assert np.abs(pixels - (gray / 257)[..., None]).max() <= 1
    assert "grayscale" in notes[0]


def test_floats_are_scaled_to_their_brightest(tmp_path: Path) -> None:
    Image.fromarray(ramp().astype(np.float32) / 1000).save(tmp_path / "a.tif")
    pixels, _ = only(tmp_path)
    assert np.abs(pixels - ramp()[..., None]).max() <= 1


def test_a_palette_is_converted(tmp_path: Path) -> None:
    colors = Image.new("P", (SIDE, SIDE), 1)
    colors.putpalette([0, 0, 0, 10, 200, 30])
    colors.save(tmp_path / "a.png")
    pixels, notes = only(tmp_path)
    assert (pixels == [10, 200, 30]).all()
    assert notes == ["a.png has a palette: it is converted to RGB."]


def test_transparent_parts_of_a_palette_are_white(tmp_path: Path) -> None:
    colors = Image.new("P", (SIDE, SIDE), 1)
    colors.putpalette([0, 0, 0, 10, 200, 30])
    colors.putpixel((3, 2), 0)
    colors.save(tmp_path / "a.gif", transparency=0)
    pixels, notes = only(tmp_path)
    assert pixels[2, 3].tolist() == [255, 255, 255]
    assert pixels[0, 0].tolist() == [10, 200, 30]
    assert "laid on white" in notes[0]


def test_half_transparent_pixels_are_mixed_with_white(tmp_path: Path) -> None:
    mixed = Image.new("RGBA", (SIDE, SIDE), (200, 0, 100, 255))
    mixed.putpixel((1, 0), (200, 0, 100, 128))
    mixed.putpixel((2, 0), (200, 0, 100, 0))
    mixed.save(tmp_path / "a.png")
    pixels, notes = only(tmp_path)
    assert pixels[0, 0].tolist() == [200, 0, 100]
    half = np.array([200, 0, 100]) * (128 / 255) + 255 * (127 / 255)
    assert np.abs(pixels[0, 1] - half).max() <= 1
    assert pixels[0, 2].tolist() == [255, 255, 255]
    assert "laid on white" in notes[0]


def test_a_transparent_color_is_white(tmp_path: Path) -> None:
    """PNG can declare one color of a plain RGB picture transparent."""
    keyed = Image.new("RGB", (SIDE, SIDE), (1, 2, 3))
    keyed.putpixel((0, 0), (9, 9, 9))
    keyed.save(tmp_path / "a.png", transparency=(1, 2, 3))
    pixels, notes = only(tmp_path)
    assert pixels[5, 5].tolist() == [255, 255, 255]
    assert pixels[0, 0].tolist() == [9, 9, 9]
    assert "laid on white" in notes[0]


def test_gray_with_transparency_is_laid_on_white(tmp_path: Path) -> None:
    Image.new("LA", (SIDE, SIDE), (40, 0)).save(tmp_path / "a.png")
    pixels, _ = only(tmp_path)
    assert (pixels == 255).all()


def test_cmyk_is_converted(tmp_path: Path) -> None:
    Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)).save(tmp_path / "a.jpg", quality=100)
    pixels, notes = only(tmp_path)
    assert np.abs(pixels - [255, 0, 0]).max() <= 3
    assert notes == ["a.jpg has mode CMYK: it is converted to RGB."]


def test_the_camera_was_held_upright(tmp_path: Path) -> None:
    """EXIF orientation 6: the top of the scene is the left side of the stored picture."""
    stored = Image.new("RGB", (40, 20), "white")
    stored.paste((255, 0, 0), (30, 0, 40, 20))
    exif = Image.Exif()
    exif[0x0112] = 6
    stored.save(tmp_path / "a.png", exif=exif)
    pixels, notes = only(tmp_path)
    assert pixels.shape == (40, 20, 3)
    # Turned clockwise by 90°, the stored left side is on top and the right side below.
    assert pixels[0, 10].tolist() == [255, 255, 255]
    assert pixels[-1, 10].tolist() == [255, 0, 0]
    assert notes == []


def test_without_foolbox_the_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"need foolbox; install it with: pip install 'modbp\[embedded\]'"):
        images.load()
