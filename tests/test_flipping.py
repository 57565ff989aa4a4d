"""Pixel flipping: a linear model has closed forms, anything else has a plain loop, and chance separates nothing."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.ndimage import gaussian_filter
from torch import Tensor, nn

from modbp.errors import InputError
from modbp.metrics.edges import edge_magnitude
from modbp.metrics.flipping import BLUR, CONTROLS, ORDERS, SHARES, flipping_area, pixel_flipping

seeds = st.integers(0, 10**6)
COLUMNS = ["method", "image", "target", "order", "share", "logit", "probability", "kept", "state"]


def drawn(seed: int, *shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def linear(w: Tensor) -> Callable[[Tensor], Tensor]:
    """Two classes: the inner product with w, and zero."""
    return lambda x: torch.stack([(x * w).sum((1, 2, 3)), x.new_zeros(len(x))], dim=1)


def network(seed: int = 0, channels: int = 3, classes: int = 4) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        net = nn.Sequential(
            nn.Conv2d(channels, 6, 3, padding=1),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Dropout(0.5),
            nn.AdaptiveAvgPool2d(2),
            nn.Flatten(),
            nn.Linear(24, classes),
        )
    return net.double().eval()


class Watched:
    """A model that remembers the pictures it was shown."""

    def __init__(self, model: Callable[[Tensor], Tensor]) -> None:
        self.model = model
        self.batches: list[Tensor] = []

    def __call__(self, x: Tensor) -> Tensor:
        self.batches.append(x.clone())
        return self.model(x)


def curves(table: pd.DataFrame, value: str = "logit") -> dict[Any, np.ndarray]:
    groups = table.groupby(["method", "image", "order"], sort=False)
    return {key: group.sort_values("share")[value].to_numpy(dtype=float) for key, group in groups}


def numbers(share: float, pixels: int) -> int:
    return math.floor(share * pixels + 0.5)


# A linear model


@given(seed=seeds, height=st.integers(2, 6), width=st.integers(2, 6))
def test_true_contributions_have_closed_forms_and_bound_every_order(seed: int, height: int, width: int) -> None:
    """The contribution of a pixel is w (x - b): what the score loses when b takes its place."""
    x, w = drawn(seed, 2, 3, height, width), drawn(seed + 1, 3, height, width)
    fill = drawn(seed + 2, 3, 1, 1)
    true = w * (x - fill)
    maps = {"true": true, "other": drawn(seed + 3, 2, height, width), "opposite": -true}
    shares = [0, 0.1, 0.25, 0.5, 0.75, 0.9, 1]
    targets = torch.zeros(2, dtype=torch.long)
    table = pixel_flipping(linear(w), x, maps, targets, order=ORDERS, shares=shares, fill=fill, seed=seed)
    found = curves(table)
    for i in range(2):
        total = float((x[i] * w).sum())
        ranked = np.sort(true[i].sum(0).flatten().numpy())
        counts = [numbers(s, height * width) for s in shares]
        lowest = np.array([total - ranked[len(ranked) - k :].sum() for k in counts])
        highest = np.array([total - ranked[:k].sum() for k in counts])
        np.testing.assert_allclose(found["true", i, "most"], lowest, atol=1e-10)
        np.testing.assert_allclose(found["true", i, "least"], highest, atol=1e-10)
        np.testing.assert_allclose(found["opposite", i, "most"], highest, atol=1e-10)
        for (_, image, _), curve in found.items():
            if image == i and np.isfinite(curve).all():
                assert (curve >= lowest - 1e-10).all()
                assert (curve <= highest + 1e-10).all()


@given(seed=seeds, patch=st.integers(1, 2))
def test_what_goes_first_in_one_order_goes_last_in_the_other(seed: int, patch: int) -> None:
    """So f_most(s) + f_least(1 - s) = f(0) + f(1) for a linear model, and the two areas add up to f(0) - f(1)."""
    x, w = drawn(seed, 2, 1, 4, 8), drawn(seed + 1, 1, 4, 8)
    sparse = drawn(seed + 2, 2, 4, 8).clamp(min=1)
    shares = [k / 8 for k in range(9)]
    targets = torch.zeros(2, dtype=torch.long)
    maps = {"map": drawn(seed + 3, 2, 1, 4, 8), "sparse": sparse}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a clamped map may be constant
        table = pixel_flipping(
            linear(w), x, maps, targets, order=ORDERS, shares=shares, fill=0.5, patch=patch, seed=seed
        )
    found = curves(table)
    areas = flipping_area(table, "logit").set_index(["method", "image"])
    for method in ("map", "sparse", *CONTROLS):
        for i in range(2):
            most, least = found[method, i, "most"], found[method, i, "least"]
            if np.isfinite(most).all():
                np.testing.assert_allclose(most + least[::-1], most[0] + most[-1], atol=1e-10)
                both = areas.loc[(method, i), ["area_most", "area_least"]].sum()
                assert both == pytest.approx(most[0] - most[-1], abs=1e-10)


# Any model


def plainly(
    model: Callable[[Tensor], Tensor],
    x: np.ndarray,
    background: np.ndarray,
    relevance: np.ndarray,
    order: str,
    shares: list[float],
    patch: int,
) -> np.ndarray:
    """Return the logits for one picture and a map of one number per pixel, square after square."""
    _, height, width = x.shape
    tiles = [
        (slice(top, min(top + patch, height)), slice(left, min(left + patch, width)))
        for top in range(0, height, patch)
        for left in range(0, width, patch)
    ]
    tiles.sort(key=lambda tile: relevance[tile].mean(), reverse=order == "most")
    rows = []
    for share in shares:
        picture, covered = x.copy(), 0
        for tile in tiles:
            size = relevance[tile].size
            if covered + size / 2 > share * height * width:
                break
            picture[:, tile[0], tile[1]] = background[:, tile[0], tile[1]]
            covered += size
        rows.append(model(torch.from_numpy(picture)[None])[0].detach().numpy())
    return np.stack(rows)


REDUCTIONS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sum": lambda R: R.sum(1),
    "absolute_sum": lambda R: np.abs(R).sum(1),
    "max_absolute": lambda R: np.abs(R).max(1),
}


@pytest.mark.parametrize("patch", [1, 2, 3, 5])
def test_it_equals_a_plain_loop(patch: int) -> None:
    net, x = network(), drawn(1, 3, 3, 5, 7)
    targets = torch.tensor([2, 0, 3])
    maps = {way: drawn(2, 3, 3, 5, 7) for way in REDUCTIONS} | {"without channels": drawn(3, 3, 5, 7)}
    ways = {way: way for way in REDUCTIONS}
    fill = drawn(4, 3, 3, 1, 1)  # a color for each picture
    shares = [0.0, 0.03, 0.2, 0.45, 0.8, 1.0]
    table = pixel_flipping(net, x, maps, targets, order=ORDERS, shares=shares, patch=patch, fill=fill, channels=ways)
    assert list(table.columns) == COLUMNS
    assert (table.state == "fine").all()
    reduced = {name: REDUCTIONS[name](R.numpy()) if name in ways else R.numpy() for name, R in maps.items()}
    reduced["edges"] = edge_magnitude(x).sum(1).numpy()
    background = fill.expand_as(x).numpy()
    for (method, i, order), group in table.groupby(["method", "image", "order"]):
        if method == "random order":
            continue
        logits = plainly(net, x[i].numpy(), background[i], reduced[method][i], order, shares, patch)
        target = int(targets[i])
        assert (group.target == target).all()
        np.testing.assert_allclose(group.logit, logits[:, target], atol=1e-12)
        softmax = np.exp(logits[:, target]) / np.exp(logits).sum(1)
        np.testing.assert_allclose(group.probability, softmax, atol=1e-12)
        assert group.kept.tolist() == (logits.argmax(1) == target).tolist()


def test_absolute_sums_count_for_maps_without_channels_too() -> None:
    """Such a map has one channel, so its negative ranks alike."""
    net, x, R = network(), drawn(0, 2, 3, 4, 4), drawn(1, 2, 4, 4)
    found = curves(pixel_flipping(net, x, {"a": R, "b": -R, "c": R.abs()[:, None]}, channels="absolute_sum"))
    for i in range(2):
        np.testing.assert_array_equal(found["a", i, "most"], found["b", i, "most"])
        np.testing.assert_array_equal(found["a", i, "most"], found["c", i, "most"])


def test_the_ends_are_the_picture_and_the_fill_for_every_method_and_run_once() -> None:
    net, x = network(), drawn(1, 3, 3, 6, 6)
    watched = Watched(net)
    table = pixel_flipping(watched, x, {"a": drawn(2, 3, 6, 6), "b": drawn(3, 3, 6, 6)}, order=ORDERS, fill=0.3)
    with torch.no_grad():
        whole, replaced = net(x), net(torch.full_like(x, 0.3))
    predicted = whole.argmax(1)
    for i, k in enumerate(predicted.tolist()):
        rows = table[table.image == i]
        assert (rows.target == k).all()
        np.testing.assert_allclose(rows.logit[rows.share == 0], float(whole[i, k]), atol=1e-12)
        np.testing.assert_allclose(rows.logit[rows.share == 1], float(replaced[i, k]), atol=1e-12)
        assert rows.kept[rows.share == 0].all()
    inner = len(SHARES) - 2
    assert sum(len(pictures) for pictures in watched.batches) == 3 * (1 + 1 + 4 * 2 * inner)
    assert max(len(pictures) for pictures in watched.batches) == 32


def test_neither_batches_nor_other_maps_pictures_and_shares_matter() -> None:
    net, x = network(), drawn(1, 3, 3, 6, 6)
    maps = {"a": drawn(2, 3, 6, 6), "b": drawn(3, 3, 3, 6, 6).clamp(min=0.5), "c": drawn(4, 3, 1, 6, 6)}
    keys = ["method", "image", "order", "share"]

    def sorted_table(table: pd.DataFrame) -> pd.DataFrame:
        return table.sort_values(keys).reset_index(drop=True)

    whole = pixel_flipping(net, x, maps, order=ORDERS)
    for batch in (1, 7, 1000):
        pd.testing.assert_frame_equal(pixel_flipping(net, x, maps, order=ORDERS, batch=batch), whole, rtol=1e-10)
    shuffled = pixel_flipping(net, x, dict(reversed(maps.items())), order=ORDERS[::-1])
    assert shuffled.method.unique().tolist() == ["c", "b", "a", *CONTROLS]
    pd.testing.assert_frame_equal(sorted_table(shuffled), sorted_table(whole), rtol=1e-10)
    part = pixel_flipping(net, x[:2], {"b": maps["b"][:2]}, shares=[0.1, 0.5])
    wanted = whole[(whole.image < 2) & whole.method.isin(["b", *CONTROLS]) & (whole.order == "most")]
    wanted = wanted[wanted.share.isin([0.1, 0.5])].reset_index(drop=True)
    pd.testing.assert_frame_equal(part, wanted, rtol=1e-10)
    ends = pixel_flipping(net, x, maps, order=ORDERS, shares=[0, 1])
    wanted = whole[whole.share.isin([0, 1])].reset_index(drop=True)
    pd.testing.assert_frame_equal(ends, wanted, rtol=1e-10)


def test_equal_pixels_follow_at_random_and_not_by_their_place() -> None:
    """One pixel of 16 stands out. It goes first; of the others, each goes within the first half in 7 of 15 pictures."""
    images = 1000
    x = torch.ones(images, 1, 4, 4, dtype=torch.float64)
    R = torch.zeros(images, 4, 4)
    R[:, 1, 1] = 1
    flipped = {}
    for seed in (0, 1):
        watched = Watched(linear(x[0]))
        with pytest.warns(UserWarning, match=r"1000 of 'edges' \(constant\)"):
            table = pixel_flipping(watched, x, {"sparse": R}, shares=[0.5], batch=images, seed=seed)
        assert (table[table.state == "fine"].logit == 8).all()
        flipped[seed] = torch.stack(watched.batches[1:])[:, :, 0] == 0  # images, (sparse, random order), height, width
    sparse, chance = flipped[0].double().mean(0)
    assert sparse[1, 1] == 1
    others = torch.cat([sparse.flatten()[:5], sparse.flatten()[6:]])
    assert float((others - 7 / 15).abs().max()) < 5 * math.sqrt(7 / 15 * 8 / 15 / images)
    assert float((chance - 1 / 2).abs().max()) < 5 * math.sqrt(1 / 4 / images)
    assert not torch.equal(flipped[0], flipped[1])
    # All but the pixel that stands out follow in the order of the control.
    alike = (flipped[0][:, 0] == flipped[0][:, 1]).flatten(1).sum(1)
    assert (alike >= 14).all()


def test_the_same_seed_gives_the_same_table_and_leaves_global_randomness_alone() -> None:
    net, x, maps = network(), drawn(1, 2, 3, 5, 5), {"a": drawn(2, 2, 5, 5)}
    before = torch.random.get_rng_state()
    first, again, other = (pixel_flipping(net, x, maps, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(torch.random.get_rng_state(), before)
    pd.testing.assert_frame_equal(first, again)
    chance = first.method == "random order"
    assert not first[chance].equals(other[chance])
    pd.testing.assert_frame_equal(first[~chance], other[~chance])


def test_a_random_order_separates_nothing_and_a_good_map_does() -> None:
    """Also for a network that is not linear: a sequence and its reverse are equally likely."""
    net, x = network(seed=2), drawn(5, 300, 3, 6, 6)
    z = x.clone().requires_grad_()
    out = net(z)
    (gradient,) = torch.autograd.grad(out.gather(1, out.argmax(1, keepdim=True)).sum(), z)
    table = pixel_flipping(net, x, {"input x gradient": gradient * x}, order=ORDERS, shares=[0, 0.1, 0.3, 0.6, 1])
    found = flipping_area(table).groupby("method")["separation"].agg(["mean", "sem"])
    z_score = found["mean"] / found["sem"]
    assert abs(z_score["random order"]) < 4
    assert z_score["input x gradient"] > 10


def test_blur_changes_only_flipped_pixels_and_to_the_blurred_ones() -> None:
    x, R = drawn(0, 2, 3, 9, 12), drawn(1, 2, 9, 12)
    watched = Watched(network())
    pixel_flipping(watched, x, {"a": R}, shares=[0.25, 1], fill="blur")
    whole, blurred, *flipped = watched.batches
    torch.testing.assert_close(whole, x)
    for i in range(2):
        wanted = np.stack([gaussian_filter(channel, BLUR * 9, mode="nearest") for channel in x[i].numpy()])
        np.testing.assert_allclose(blurred[i].numpy(), wanted, atol=1e-12)
        first = R[i] >= R[i].flatten().sort(descending=True).values[26]  # a quarter of 108 pixels
        assert int(first.sum()) == 27
        assert not (x[i] == blurred[i]).any()
        assert torch.equal(flipped[i][0], torch.where(first, blurred[i], x[i]))


def test_a_map_that_ranks_nothing_is_counted_and_not_flipped() -> None:
    net, x = network(), drawn(1, 4, 3, 6, 6)
    bad = drawn(2, 4, 3, 6, 6).float()
    bad[0, 0, 0, 0] = torch.nan
    bad[1, 1, 2, 2] = torch.inf
    bad[2] = 0.1
    rounded = torch.full((4, 6, 6), 0.1)
    rounded[:, ::2] = torch.nextafter(rounded[:, ::2], torch.tensor(1.0))
    x[3] = 0  # no edges
    said = (
        r"^Maps that rank no pixels were not flipped: 1 of 'bad' \(constant\), 2 of 'bad' \(not finite\), 4 of"
        r" 'rounded' \(constant\), 1 of 'edges' \(constant\)\.$"
    )
    with pytest.warns(UserWarning, match=said):
        table = pixel_flipping(net, x, {"bad": bad, "rounded": rounded, "good": drawn(3, 4, 6, 6)}, order=ORDERS)
    states = table.groupby(["method", "image"])["state"].unique().map(list)
    assert states["bad"].tolist() == [["not finite"], ["not finite"], ["constant"], ["fine"]]
    assert states["edges"].tolist() == [["fine"]] * 3 + [["constant"]]
    unusable = table[table.state != "fine"]
    assert unusable[["logit", "probability", "kept"]].isna().all().all()
    assert table[table.state == "fine"].notna().all().all()
    areas = flipping_area(table)
    missing = areas[areas.separation.isna()]
    wanted = {*(("bad", i) for i in range(3)), *(("rounded", i) for i in range(4)), ("edges", 3)}
    assert set(zip(missing.method, missing.image, strict=True)) == wanted
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        alone = pixel_flipping(net, x[:3], {"good": drawn(3, 4, 6, 6)[:3]}, order=ORDERS)
    wanted = table[(table.method == "good") & (table.image < 3)].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone[alone.method == "good"].reset_index(drop=True), wanted, rtol=1e-10)


def test_squares_of_a_constant_region_stay_equal_at_the_border() -> None:
    """Squares at the border hold fewer pixels; their sums would differ where their means do not."""
    with pytest.warns(UserWarning, match=r"1 of 'flat' \(constant\)"):
        pixel_flipping(network(), drawn(0, 1, 3, 7, 5), {"flat": torch.full((1, 7, 5), 0.1)}, patch=3)


def test_logits_that_are_not_finite_keep_no_decision() -> None:
    x = drawn(0, 1, 1, 4, 4)
    table = pixel_flipping(lambda x: linear(x[0])(x) * torch.nan, x, {"a": x}, torch.tensor([0]))
    assert (table.state == "fine").all()
    assert table.logit.isna().all()
    assert (table.kept == False).all()  # noqa: E712


def test_the_model_and_the_inputs_are_left_as_they_are() -> None:
    net, x = network(), drawn(0, 2, 3, 5, 5).requires_grad_()
    R = {"a": drawn(1, 2, 5, 5)}
    state = {name: value.clone() for name, value in net.state_dict().items()}
    copies = x.detach().clone(), R["a"].clone()
    pixel_flipping(net, x, R, fill="blur", patch=2)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())
    assert not any(module.training for module in net.modules())
    for module in net.modules():
        assert not module._forward_hooks
        assert not module._forward_pre_hooks
        assert not module._backward_hooks
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    assert torch.equal(x, copies[0])
    assert torch.equal(R["a"], copies[1])


@pytest.mark.parametrize("softmax", [False, True])
@pytest.mark.parametrize("order", ORDERS)
def test_it_equals_quantus(softmax: bool, order: str) -> None:
    """Quantus 0.6.0's PixelFlipping, where the two definitions are one.

    Its conventions, matched here: a feature is one entry of one channel, so the pictures have a single channel;
    `features_in_step` features go in each step, which is a share of that many pixels; `perturb_baseline` is a number;
    `abs=False` and `normalise=False`, so that the map ranks with its sign; predictions are of the given class, softmax
    or logits; there is no entry for the whole picture, and the last one is the fill. It sorts most relevant first, so
    for the other order it gets the negative map. No two pixels are equally relevant, since ties go by index there.
    """
    from modbp._torchvision import torchvision

    torchvision()
    import quantus

    net, x, R = network(channels=1).float(), drawn(0, 3, 1, 6, 5).float(), drawn(1, 3, 1, 6, 5).float()
    targets = torch.tensor([0, 3, 1])
    metric = quantus.PixelFlipping(
        features_in_step=3, abs=False, normalise=False, perturb_baseline=0.25, disable_warnings=True
    )
    theirs = metric(
        model=net,
        x_batch=x.numpy(),
        y_batch=targets.numpy(),
        a_batch=(R if order == "most" else -R).numpy(),
        softmax=softmax,
        channel_first=True,
        device="cpu",
    )
    shares = [3 * step / 30 for step in range(1, 11)]
    table = pixel_flipping(net, x, {"map": R}, targets, order=order, shares=shares, fill=0.25)
    ours = curves(table, "probability" if softmax else "logit")
    for i in range(3):
        np.testing.assert_allclose(ours["map", i, order], theirs[i], atol=1e-5)


# Areas


def made(curve: dict[str, list[float]], method: str = "a", image: int = 0) -> pd.DataFrame:
    shares = [0.0, 0.25, 0.75, 1.0]
    rows = [
        {"method": method, "image": image, "order": order, "share": share, "probability": p, "logit": 10 * p}
        for order, values in curve.items()
        for share, p in zip(shares, values, strict=True)
    ]
    return pd.DataFrame(rows)


def test_areas_by_hand() -> None:
    """By hand: drops of 0, 0.4, 0.6, 0.8 have the trapezoids 0.05, 0.25 and 0.175."""
    both = made({"most": [0.9, 0.5, 0.3, 0.1], "least": [0.9, 0.9, 0.9, 0.1]})
    alone = made({"most": [0.9, 0.5, 0.3, 0.1]}, "b", image=2)
    for table in (pd.concat([both, alone]), pd.concat([both[::-1], alone[::-1]])):
        found = flipping_area(table)
        assert list(found.columns) == ["method", "image", "area_most", "area_least", "separation"]
        assert found[["method", "image"]].to_numpy().tolist() == [["a", 0], ["b", 2]]
        np.testing.assert_allclose(found.area_most, [0.475, 0.475])
        np.testing.assert_allclose(found.area_least, [0.1, np.nan])
        np.testing.assert_allclose(found.separation, [0.375, np.nan])
        np.testing.assert_allclose(flipping_area(table, "logit").area_most, [4.75, 4.75])


def test_areas_of_a_part_of_the_shares_are_means_over_that_part() -> None:
    """A score that falls evenly has lost half of the whole loss on average, wherever one stops."""
    table = made({"most": [1.0, 0.75, 0.25, 0.0], "least": [1.0, 1.0, 1.0, 1.0]})
    for last in (0.25, 0.75, 1.0):
        found = flipping_area(table[table.share <= last])
        np.testing.assert_allclose(found[["area_most", "area_least", "separation"]], [[last / 2, 0, last / 2]])


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"value": "kept"}, "value is 'kept'; allowed are probability, logit"),
        ({"table": lambda t: t.drop(columns=["share", "order"])}, "table lacks order, share"),
        ({"table": lambda t: t.drop(columns="probability")}, "table lacks probability"),
        ({"table": lambda t: pd.concat([t, t])}, "share of a curve twice"),
        ({"table": lambda t: t[t.share > 0]}, r"shares \[0.25, 0.75, 1.0\]; allowed are 0"),
        ({"table": lambda t: t[t.share == 0]}, r"shares \[0.0\]; allowed are 0 and at least one other"),
        ({"table": lambda t: t[:0]}, r"shares \[\]"),
    ],
)
def test_bad_tables_are_refused(change: dict[str, Any], said: str) -> None:
    table = change.pop("table", lambda t: t)(made({"most": [1.0, 0.5, 0.5, 0.0]}))
    with pytest.raises(InputError, match=said):
        flipping_area(table, **change)


# Bad input

X = drawn(0, 2, 3, 4, 6)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"model": "vgg16"}, "model is of type str"),
        ({"model": nn.Linear(2, 2)}, "model is in training mode; allowed is eval mode"),
        ({"model": lambda x: x}, r"model returned shape \(2, 3, 4, 6\); allowed are logits of shape \(2, classes\)"),
        ({"model": lambda x: [x]}, "model returned list"),
        ({"inputs": (X,)}, "inputs is of type tuple"),
        ({"inputs": X[0]}, r"inputs has shape \(3, 4, 6\)"),
        ({"inputs": X * torch.nan}, "inputs holds 144 values that are NaN"),
        ({"inputs": X.long()}, "inputs has dtype torch.int64"),
        ({"maps": {}}, "maps is empty; allowed is a mapping from at least one name"),
        ({"maps": X}, "maps is of type Tensor"),
        ({"maps": {"a": X, "edges": X}}, "maps holds 'edges', which is a control"),
        ({"maps": {"random order": X}}, "maps holds 'random order', which is a control"),
        ({"maps": {"a": X, "mine": X[:1]}}, r"the map 'mine' has shape \(1, 3, 4, 6\); allowed .* \(2, 4, 6\) or"),
        ({"maps": {"mine": X[:, :2]}}, r"the map 'mine' has shape \(2, 2, 4, 6\)"),
        ({"maps": {"mine": X[:, 0, :3]}}, r"the map 'mine' has shape \(2, 3, 6\)"),
        ({"maps": {"mine": X.numpy()}}, "the map 'mine' is of type ndarray"),
        ({"maps": {"mine": X + 1j}}, "the map 'mine' is torch.complex128"),
        ({"targets": [0, 1]}, "targets is of type list; allowed is an integer tensor"),
        ({"targets": torch.tensor([0.0, 1.0])}, "targets is torch.float32"),
        ({"targets": torch.tensor([0])}, r"targets is torch.int64 of shape \(1,\); allowed .* \(2,\)"),
        ({"targets": torch.tensor([0, 4])}, "targets holds 0 to 4; allowed .* from 0 to 3"),
        ({"targets": torch.tensor([-1, 0])}, "targets holds -1 to 0"),
        ({"order": "best"}, "order is 'best'; allowed are one or more of most, least"),
        ({"order": []}, r"order is \[\]"),
        ({"shares": []}, r"shares is \[\]"),
        ({"shares": 0.5}, "shares is 0.5; allowed are one or more numbers that increase within 0 to 1"),
        ({"shares": [0, 0.5, 0.5]}, "shares is"),
        ({"shares": [0.5, 0.2]}, "shares is"),
        ({"shares": [0, 1.1]}, "shares is"),
        ({"shares": [-0.1, 1]}, "shares is"),
        ({"shares": [0, float("nan")]}, "shares is"),
        ({"shares": [False, True]}, "shares is"),
        ({"patch": 0}, "patch is 0"),
        ({"patch": 1.0}, "patch is 1.0"),
        ({"patch": 5}, "patch is 5; allowed for pictures of 4 by 6 pixels are 1 to 4"),
        ({"fill": "noise"}, "fill is 'noise'; allowed are a finite number"),
        ({"fill": True}, "fill is True"),
        ({"fill": math.inf}, "fill is inf"),
        ({"fill": torch.full((3, 1, 1), torch.nan)}, "fill is a tensor with NaN"),
        ({"fill": torch.zeros(2, 1, 1)}, r"fill has shape \(2, 1, 1\); allowed .* \(2, 3, 4, 6\)"),
        ({"channels": "mean"}, "channels is 'mean' for 'a'; allowed are sum, absolute_sum, max_absolute"),
        ({"channels": ["sum"]}, r"channels is \['sum'\] for 'a'"),
        ({"channels": {"a": "mean"}}, "channels is 'mean' for 'a'"),
        ({"channels": {"b": "sum"}}, "channels names 'b'; allowed are the names of maps: a"),
        ({"batch": 0}, "batch is 0"),
        ({"batch": 2.0}, "batch is 2.0"),
        ({"seed": -1}, "seed is -1"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(change: dict[str, Any], said: str) -> None:
    given = {"model": network(), "inputs": X, "maps": {"a": X}} | change
    with pytest.raises(InputError, match=said) as caught:
        pixel_flipping(**given)
    assert "\n" not in str(caught.value)
