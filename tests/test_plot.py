"""What the figures draw: every number in its place, and nothing that is not there."""

from __future__ import annotations

import io
import math

import matplotlib.figure
import numpy as np
import pytest
from PIL import Image

from modbp import plot


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[matplotlib.figure.Figure]:
    """The figures that were made, before they became pictures."""
    kept: list[matplotlib.figure.Figure] = []
    original = matplotlib.figure.Figure.savefig

    def savefig(self: matplotlib.figure.Figure, *args: object, **options: object) -> None:
        kept.append(self)
        original(self, *args, **options)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", savefig)
    return kept


VALUES = {
    "trained": {"gradient": [1.4, 1.3], "guided_backprop": [0.1, math.nan]},
    "random": {"guided_backprop": [0.2, math.inf], "mine": [0.5]},
}


def test_a_ranking_has_a_row_for_each_method_and_a_dot_for_each_finite_number(
    drawn: list[matplotlib.figure.Figure],
) -> None:
    plot.ranking(VALUES, "distance", levels={"unrelated": 2**0.5})
    (axis,) = drawn[0].axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["Gradient", "Guided Backprop", "mine"]
    dots = {line.get_label(): np.array(line.get_xydata()).tolist() for line in axis.lines}
    assert dots["trained"] == [[1.4, 0], [1.3, 0], [0.1, 1]]
    assert dots["random"] == [[0.2, 1], [0.5, 2]]
    assert dots["unrelated"][0][0] == 2**0.5
    top, bottom = axis.get_ylim()[::-1]
    assert top < bottom, "the first method stands at the top"


@pytest.mark.usefixtures("no_warning")
@pytest.mark.parametrize("n", [1, 2, 30])
def test_a_ranking_of_any_number_of_methods_fits_its_picture(n: int) -> None:
    found = plot.ranking({"a": {f"method {i}": [0.5] for i in range(n)}}, "distance", logarithmic=True)
    with Image.open(io.BytesIO(found.data)) as picture:
        assert picture.height > 200


def test_nothing_finite_is_nothing_drawn(drawn: list[matplotlib.figure.Figure]) -> None:
    plot.ranking({"a": {"gradient": [math.nan]}}, "distance")
    (axis,) = drawn[0].axes
    assert len(axis.lines[0].get_xydata()) == 0
    assert [label.get_text() for label in axis.get_yticklabels()] == ["Gradient"]
