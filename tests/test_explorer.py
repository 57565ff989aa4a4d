"""The rule explorer: its pictures and numbers, the script that makes them, and the page in a browser.

The page stands alone here, without the book around it: its own raw HTML in a bare document. `test_book.py` looks at it
inside the book.
"""

from __future__ import annotations

import io
import re
import shutil
import sys
from collections.abc import Callable, Iterator
from html import unescape
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlencode, urlsplit

import numpy as np
import pytest
import torch
from PIL import Image
from test_book import OVERFLOW, PHONE, _watched, browser  # noqa: F401  # the fixture `browser`

import modbp
from modbp import images, networks, patterns, plot, zoo
from modbp.metrics import predicted_and_others, sanity

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "scripts"))
import explorer

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "book" / "rule-explorer.md"
STATIC = ROOT / "book" / "_static" / "explorer"
MAPS = STATIC / "maps"
DATA = explorer.read(MAPS / "data.js")
SIDE, SIZE = DATA["settings"]["side"], DATA["settings"]["size"]

State = dict[str, str]
DEFAULT: State = {
    "photograph": DATA["photographs"][0]["id"],
    "rule": "guided_backprop",
    "class": DATA["categories"][DATA["photographs"][0]["classes"][0]].replace(" ", "-"),
    "randomized": "0",
}


def difference(a: np.ndarray[Any, Any], b: np.ndarray[Any, Any]) -> float:
    """Return the mean absolute difference of two pictures, in units of the full range."""
    return float(np.abs(a.astype(float) - b.astype(float)).mean() / 255)


def tile(photograph: int, rule: str, stage: int, column: int) -> np.ndarray[Any, Any]:
    """Return one picture of a committed sheet."""
    with Image.open(MAPS / DATA["photographs"][photograph]["rules"][rule]["sheet"]) as sheet:
        box = (column * SIDE, stage * SIDE, (column + 1) * SIDE, (stage + 1) * SIDE)
        return np.asarray(sheet.convert("RGB").crop(box))


# ── What is committed ────────────────────────────────────────────────────────────────────────────────────────────


def test_every_method_is_there_once_and_both_controls() -> None:
    # alpha-beta is a family, whose members have names of their own.
    methods = [m for m in modbp.METHODS if m != "lrp_alpha_beta"]
    listed = [rule for members in DATA["families"].values() for rule in members]
    assert sorted(listed) == sorted([*methods, sanity.NOISE, sanity.EDGES])
    assert {rule: DATA["names"][rule] for rule in methods} == {rule: plot.NAMES[rule] for rule in methods}
    for photograph in DATA["photographs"]:
        assert sorted(photograph["rules"]) == sorted(listed)


def test_every_sheet_has_a_tile_for_each_stage_and_class() -> None:
    for photograph in DATA["photographs"]:
        rows, columns = len(DATA["stages"]), len(photograph["classes"])
        assert columns >= 2
        for rule, found in photograph["rules"].items():
            with Image.open(MAPS / found["sheet"]) as sheet:
                assert (sheet.format, sheet.size) == ("WEBP", (columns * SIDE, rows * SIDE)), rule
            for measure in ("ssim", "rank"):
                assert np.shape(found[measure]) == (rows, columns), rule
                assert found[measure][0][0] == 1, f"{rule}: the first map is the reference itself"
                assert all(v is None or -1 <= v <= 1 for row in found[measure] for v in row), rule
        with Image.open(MAPS / photograph["picture"]) as picture:
            assert picture.size == (SIDE, SIDE)


def test_there_is_no_other_file_and_all_are_small_together() -> None:
    named = {sheet["sheet"] for p in DATA["photographs"] for sheet in p["rules"].values()}
    named |= {p["picture"] for p in DATA["photographs"]} | {"data.js"}
    assert {path.name for path in MAPS.iterdir()} == named
    assert {path.name for path in STATIC.iterdir()} == {"explorer.js", "explorer.css", "maps"}
    assert sum(path.stat().st_size for path in STATIC.rglob("*") if path.is_file()) < explorer.MOST_BYTES


@pytest.fixture(scope="module")
def network() -> Any:
    return zoo.load()


@pytest.fixture(scope="module")
def inputs(network: Any) -> torch.Tensor:
    return torch.stack([network.transform(p.image) for p in images.load(n=len(DATA["photographs"]))])


def test_the_data_say_which_network_photographs_and_classes_were_taken(network: Any, inputs: torch.Tensor) -> None:
    assert inputs.shape[-1] == SIZE
    assert DATA["modbp"] == modbp.__version__
    assert DATA["weights"] == zoo.describe(network)
    assert DATA["measure"] == sanity.STRICT.label
    loaded = images.load(n=len(DATA["photographs"]))
    assert [p["id"] for p in DATA["photographs"]] == [Path(photograph.name).stem for photograph in loaded]
    assert DATA["categories"] == [c.split(",")[0] for c in network.categories]
    with torch.no_grad():
        logits = torch.cat([network(x) for x in inputs.split(1)])
    asked = predicted_and_others(logits, len(DATA["photographs"][0]["classes"]) - 1, DATA["settings"]["seed"])
    assert [p["classes"] for p in DATA["photographs"]] == asked.tolist()
    for photograph, row, classes in zip(DATA["photographs"], logits, asked, strict=True):
        assert photograph["logits"][0] == pytest.approx(row[classes].tolist(), abs=0.01)
        assert photograph["top"][0] == photograph["classes"][0]
        assert DATA["categories"][photograph["top"][0]] == photograph["name"], "the label is what is predicted"


def test_stages_are_a_cascade_from_the_top_with_the_papers_names(network: Any) -> None:
    layers = list(networks.weighted_layers(network))
    modules = {
        "fc3" if name == "logits" else name: at for name, at in zip(zoo.vgg16_activations(), layers, strict=True)
    }
    assert DATA["layers"] == len(layers)
    assert DATA["stages"][0] == {"id": "trained", "layers": 0, "lowest": None}
    for stage in DATA["stages"][1:]:
        assert stage["layers"] == len(layers[layers.index(modules[stage["lowest"]]) :])
    counts = [stage["layers"] for stage in DATA["stages"]]
    assert counts == sorted(set(counts))
    assert counts[-1] == len(layers)


@pytest.mark.parametrize("rule", ["gradient", "guided_backprop"])
def test_a_committed_picture_and_its_numbers_can_be_computed_again(
    network: Any, inputs: torch.Tensor, rule: str
) -> None:
    stage = next(i for i, s in enumerate(DATA["stages"]) if s["lowest"] == "conv4_1")
    layers = list(networks.weighted_layers(network))
    changed = networks.randomized_layers(network, layers[-DATA["stages"][stage]["layers"] :], DATA["settings"]["seed"])
    found = DATA["photographs"][0]
    target, other = found["classes"]
    x = inputs[:1]
    maps = {
        (0, 0): modbp.make(rule, network).attribute(x, target),
        (0, 1): modbp.make(rule, network).attribute(x, other),
        (stage, 1): modbp.make(rule, changed).attribute(x, other),
    }
    for (row, column), attribution in maps.items():
        small = torch.nn.functional.interpolate(attribution.double(), SIDE, mode="bilinear", antialias=True)
        picture = plot.as_picture(small[0]) * 255
        far = difference(picture, tile(0, rule, len(DATA["stages"]) - 1, column))
        assert difference(picture, tile(0, rule, row, column)) < min(0.04, 0.5 * far)
        drawn = sanity.Drawn("max_absolute")
        ssim = sanity.ssim(maps[0, 0], attribution, drawn=drawn)[0]
        assert found["rules"][rule]["ssim"][row][column] == pytest.approx(ssim, abs=0.01)
    with torch.no_grad():
        logits = changed(x)[0]
    assert found["logits"][stage][1] == pytest.approx(float(logits[other]), rel=1e-3, abs=0.01)
    assert found["top"][stage] == int(logits.argmax())


def test_controls_frame_the_numbers() -> None:
    for photograph in DATA["photographs"]:
        noise, edges = (photograph["rules"][name] for name in (sanity.NOISE, sanity.EDGES))
        assert {v for row in edges["ssim"] for v in row} == {1}
        changed = [v for row in noise["ssim"] for v in row][1:]
        assert max(changed) < 0.05
        assert all(rule["floor"] < 0.7 for rule in photograph["rules"].values())


# ── The script ───────────────────────────────────────────────────────────────────────────────────────────────────

Make = Callable[..., int]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Run the script on one small photograph, into folders of this test."""
    threads = torch.get_num_threads()

    def run(
        *more: str, output: str = "maps", work: str = "work", rules: tuple[str, ...] = ("gradient", "edges")
    ) -> int:
        small = ["--photographs", "1", "--size", "40", "--side", "32", "--rules", *rules]
        return explorer.main([*small, "--output", str(tmp_path / output), "--work", str(tmp_path / work), *more])

    yield run
    torch.set_num_threads(threads)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--photographs", "0"], "--photographs is 0; allowed are whole numbers from 1 to 20."),
        (["--photographs", "21"], "--photographs is 21; allowed are whole numbers from 1 to 20."),
        (["--size", "8"], "--size is 8; allowed are whole numbers from 32 to 512."),
        (["--side", "225"], "--side is 225; allowed are whole numbers from 16 to 224."),
        (["--quality", "101"], "--quality is 101; allowed are whole numbers from 1 to 100."),
        (["--rules", "gradient", "magic"], "--rules holds 'magic'; allowed are gradient, input_x_gradient,"),
        (["--seed", "-1"], "seed is -1; allowed are whole numbers from 0 to"),
        (["--output", "no/such/folder"], "--output is in 'no/such', which is no folder; allowed is an existing one."),
        (["--output", "."], "--output is '.', which holds other things; allowed is an empty or a new folder."),
        (["--side", "big"], "argument --side: invalid int value: 'big'"),
    ],
)
def test_a_bad_argument_is_refused_in_one_sentence_before_any_work(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, given: list[str], said: str
) -> None:
    (folder / "mine.txt").touch()
    monkeypatch.setattr(explorer.Study, "__init__", lambda *_: pytest.fail("it began to work"))
    with pytest.raises(SystemExit) as caught:
        explorer.main(given)
    assert caught.value.code == 2
    *_, last = capsys.readouterr().err.strip().splitlines()
    assert last.partition("error: ")[2].startswith(said)
    assert [path.name for path in folder.iterdir()] == ["mine.txt"]


def test_two_runs_write_the_same_files(make: Make, tmp_path: Path) -> None:
    assert make() == 0
    assert make(output="again", work="elsewhere") == 0
    first, second = ({p.name: p.read_bytes() for p in (tmp_path / name).iterdir()} for name in ("maps", "again"))
    assert first == second
    data = explorer.read(tmp_path / "maps" / "data.js")
    assert set(first) == {
        "data.js", "imagenet_00_243.webp", "imagenet_00_243-gradient.webp", "imagenet_00_243-edges.webp",
    }  # fmt: skip
    assert data["settings"] == {"size": 40, "side": 32, "seed": 0, "quality": 80}


def test_an_interrupted_run_leaves_the_old_pictures_and_goes_on_where_it_stopped(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert make(rules=("edges",)) == 0
    old = {p.name: p.read_bytes() for p in (tmp_path / "maps").iterdir()}
    made, real = [], explorer.make

    def once(study: Any, rule: str, photograph: int, path: Path) -> None:
        if made:
            raise KeyboardInterrupt
        made.append(rule)
        real(study, rule, photograph, path)

    monkeypatch.setattr(explorer, "make", once)
    with pytest.raises(KeyboardInterrupt):
        make("--seed", "1", rules=("gradient", "lrp_zplus"))
    assert {p.name: p.read_bytes() for p in (tmp_path / "maps").iterdir()} == old
    assert made == ["gradient"]
    monkeypatch.setattr(explorer, "make", lambda *given: (made.append(given[1]), real(*given)))
    assert make("--seed", "1", rules=("gradient", "lrp_zplus")) == 0
    assert made == ["gradient", "lrp_zplus"]
    assert {p.name for p in (tmp_path / "maps").iterdir()} != set(old)
    assert {p.name for p in tmp_path.iterdir()} == {"maps", "work"}, "something temporary was left"


def test_too_large_a_folder_is_not_put_in_place(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(explorer, "MOST_BYTES", 1000)
    assert make() == 1
    assert "take a smaller --side, a lower --quality or fewer --photographs" in capsys.readouterr().err
    assert not (tmp_path / "maps").exists()


def test_patterns_are_fitted_again_in_each_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "RANDOM_DOWN_TO", ("fc1",))
    monkeypatch.setattr(explorer, "N_FITTED", 2)
    study = explorer.Study(1, explorer.Settings(size=40, side=32, seed=0))
    maps = study.maps("pattern_attribution", 0)
    changed = networks.randomized_layers(study.network, ["classifier.0", "classifier.3", "classifier.6"], 0)
    classes = study.classes[:1]
    again, kept = (
        modbp.make("pattern_attribution", changed, patterns=patterns.fit(net, study.fitted)).attribute_classes(
            study.inputs, classes
        )[:, 0]
        for net in (changed, study.network)
    )
    assert torch.nn.functional.cosine_similarity(maps[1].flatten(1), again.flatten(1)).min() > 0.999
    assert torch.nn.functional.cosine_similarity(maps[1].flatten(1), kept.flatten(1)).max() < 0.999


# ── The page ─────────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_page_says_the_sizes_of_what_it_shows() -> None:
    text = " ".join(PAGE.read_text(encoding="utf-8").split())
    settings = DATA["settings"]
    assert f"made from {SIZE} × {SIZE} pixels, reduced to {SIDE} × {SIDE}" in text
    assert f"WebP at quality {settings['quality']}" in text
    count = ("one", "two", "three", "four", "five", "six")[len(DATA["photographs"]) - 1]
    assert f"The first {count} of the twenty" in text
    assert f"{count.capitalize()} photographs, and one random draw" in text
    assert DATA["patterns_fitted_to"] == 8
    assert "fitted again in each network, to the first eight photographs" in text
    assert (DATA["layers"], len(DATA["categories"])) == (16, 19)
    assert "sixteen layers that have weights" in text
    assert "classifier of nineteen classes" in text


def links() -> list[State]:
    """Return the states that the page's text links to."""
    found = re.findall(r'<a href="(rule-explorer\.html[^"]*)"', PAGE.read_text(encoding="utf-8"))
    return [{k: v[0] for k, v in parse_qs(urlsplit(unescape(a)).query).items()} for a in found]


def test_there_are_three_things_to_try() -> None:
    assert len(links()) >= 3
    assert all(set(state) == set(DEFAULT) for state in links())


CONTRAST = """() => {
  const parse = color => color.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const linear = [r, g, b].map(v => v / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2];
  };
  const ground = e => {
    for (let p = e; p; p = p.parentElement) {
      const [r, g, b, a = 1] = parse(getComputedStyle(p).backgroundColor);
      if (a > 0) return [r, g, b];
    }
    return [255, 255, 255];
  };
  const texts = 'legend, label, select, #explorer-layers, figcaption, #explorer-status, dt, dd, .explorer-key span';
  const found = [...document.querySelectorAll('.explorer :is(' + texts + ')')].map(e => [e, 'color', 4.5]);
  found.push(...[...document.querySelectorAll('.explorer svg text')].map(e => [e, 'fill', 4.5]));
  found.push(...[...document.querySelectorAll('.explorer svg :is(polyline, .here)')].map(e => [e, 'stroke', 3]));
  return found.map(([e, property, least]) => {
    const pair = [parse(getComputedStyle(e)[property]), ground(e)].map(luminance).sort((a, b) => b - a);
    return [e.tagName + ' ' + e.textContent.trim().slice(0, 30), (pair[0] + 0.05) / (pair[1] + 0.05), least];
  });
}"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Put the page's own HTML into a bare document with the theme's style sheets, and return its address."""
    import pydata_sphinx_theme

    top = tmp_path_factory.mktemp("alone")
    (top / "book").mkdir()
    shutil.copytree(STATIC, top / "_static" / "explorer")
    theme = Path(pydata_sphinx_theme.__file__).parent / "theme" / "pydata_sphinx_theme" / "static" / "styles"
    shutil.copytree(theme, top / "_static" / "styles")
    text = PAGE.read_text(encoding="utf-8")
    (raw,) = re.findall(r"(?ms)^```\{raw\} html\n(.*?)^```$", text)
    sheets = ("bootstrap.css", "pydata-sphinx-theme.css")
    heads = "".join(f'<link rel="stylesheet" href="../_static/styles/{name}">' for name in sheets)
    anchors = "".join(f'<h2 id="{name}">{name}</h2>' for name in re.findall(r"\{#([\w-]+)\}", text))
    (top / "book" / "rule-explorer.html").write_text(
        f"""<!doctype html><html lang="en"><head><meta charset="utf-8"><title>Rule explorer</title>
        <meta name="viewport" content="width=device-width">{heads}
        <script>const scheme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
        document.documentElement.dataset.theme = scheme;</script></head>
        <body><main class="bd-content" style="padding: 1rem; width: 100%; display: block"><h1>Rule explorer</h1>
        <div>{raw}{anchors}</div></main></body></html>""",
        encoding="utf-8",
    )
    return (top / "book" / "rule-explorer.html").as_uri()


@pytest.fixture(params=["light"])
def page(browser: Browser, alone: str, request: pytest.FixtureRequest) -> Iterator[Page]:  # noqa: F811
    """The page in a window; whatever goes wrong in it fails the test at its end."""
    problems: list[str] = []
    with _watched(browser, alone.rpartition("book/")[0], request.param, problems) as opened:
        opened.goto(alone)
        yield opened
    # A picture that is no longer wanted, because the test went on to another address, is no fault.
    assert [p for p in problems if "ERR_ABORTED" not in p] == []


def settled(page: Page) -> None:
    """Wait until each canvas shows what was asked for last."""
    page.wait_for_function(
        """() => document.getElementById('explorer').dataset.ready
        && [...document.querySelectorAll('.explorer canvas')].every(c => c.dataset.shown === c.dataset.wanted)"""
    )


def shown(page: Page, name: str = "map") -> np.ndarray[Any, Any]:
    """Return what the canvas of that name looks like, pixel by pixel."""
    settled(page)
    canvas = page.locator(f"#explorer-{name}")
    # For a moment without scaling; a canvas with pictures from a folder cannot be read by a script.
    canvas.evaluate(f"e => e.style = 'position: fixed; left: 0; top: 0; width: {SIDE}px; z-index: 9999'")
    content = canvas.screenshot()
    canvas.evaluate("e => e.removeAttribute('style')")
    with Image.open(io.BytesIO(content)) as picture:
        return np.asarray(picture.convert("RGB"))


def status(page: Page) -> str:
    return page.locator("#explorer-status").inner_text()


def state_of(page: Page) -> State:
    """Return the state that the controls are in, in the words of the address."""
    rules = [rule for members in DATA["families"].values() for rule in members]
    photograph = int(page.locator("[name=photograph]:checked").get_attribute("value") or -1)
    column = int(page.locator("[name=class]:checked").get_attribute("value") or -1)
    return {
        "photograph": DATA["photographs"][photograph]["id"],
        "rule": rules[int(page.locator("[name=rule]").input_value())],
        "class": slug(DATA["photographs"][photograph]["classes"][column]),
        "randomized": str(DATA["stages"][int(page.locator("[name=randomized]").input_value())]["layers"]),
    }


def slug(category: int) -> str:
    return DATA["categories"][category].lower().replace(" ", "-")


def in_address(page: Page) -> State:
    return {k: v[0] for k, v in parse_qs(urlsplit(page.url).fragment).items()}


def test_it_opens_with_the_default_and_shows_the_right_tiles(page: Page) -> None:
    assert state_of(page) == DEFAULT
    assert difference(shown(page), tile(0, "guided_backprop", 0, 0)) < 0.002
    assert difference(shown(page), tile(0, "gradient", 0, 0)) > 0.05, "a control of the line above"
    assert difference(shown(page, "reference"), tile(0, "guided_backprop", 0, 0)) < 0.002
    with Image.open(MAPS / DATA["photographs"][0]["picture"]) as picture:
        assert difference(shown(page, "photograph"), np.asarray(picture.convert("RGB"))) < 0.002
    assert "This is the reference map itself." in status(page)


def test_every_control_changes_picture_address_and_status(page: Page) -> None:
    page.locator("[name=rule]").select_option(label="Gradient")
    last = len(DATA["stages"]) - 1
    steps: list[tuple[str, str, Callable[[], None]]] = [
        ("class", slug(DATA["photographs"][0]["classes"][1]), lambda: page.locator("[name=class]").nth(1).check()),
        ("randomized", "16", lambda: page.locator("[name=randomized]").fill(str(last))),
        ("rule", "rectgrad", lambda: page.locator("[name=rule]").select_option(label="RectGrad")),
        ("photograph", DATA["photographs"][1]["id"], lambda: page.locator("[name=photograph]").nth(1).check()),
    ]
    for part, value, choose in steps:
        picture, sentence = shown(page), status(page)
        choose()
        assert in_address(page)[part] == value
        assert in_address(page) == state_of(page)
        assert status(page) != sentence
        assert difference(shown(page), picture) > 0.01, part
    assert difference(shown(page), tile(1, "rectgrad", last, 1)) < 0.002
    assert difference(shown(page, "reference"), tile(1, "rectgrad", 0, 0)) < 0.002


def test_status_alternative_texts_and_numbers_say_what_is_shown(page: Page) -> None:
    photograph = DATA["photographs"][1]
    row = next(i for i, s in enumerate(DATA["stages"]) if s["lowest"] == "conv4_1")
    names = [DATA["categories"][k] for k in photograph["classes"]]
    page.locator("[name=photograph]").nth(1).check()
    page.locator("[name=rule]").select_option(label="z⁺")
    page.locator("[name=class]").nth(1).check()
    page.locator("[name=randomized]").fill(str(row))
    found = photograph["rules"]["lrp_zplus"]
    assert page.locator("#explorer-status").get_attribute("aria-live") == "polite"
    sentence = status(page)
    assert f"z⁺ on the photograph of class {photograph['name']}, asked for {names[1]}" in sentence
    assert "9 of 16 layers random, from the top down to conv4_1" in sentence
    assert f"SSIM with the reference map is {found['ssim'][row][1]:.2f}, where {found['floor']:.2f}" in sentence
    top = DATA["categories"][photograph["top"][row]]
    assert top != names[0], "the sentence below is of a network that predicts something else"
    assert f"no longer predicts {names[0]}: its largest logit is that of {top}" in sentence
    label = page.locator("#explorer-map").get_attribute("aria-label")
    assert label == f"Map of z⁺: class {names[1]}, a network with 9 of 16 layers random, from the top down to conv4_1."
    assert names[0] in str(page.locator("#explorer-reference").get_attribute("aria-label"))
    assert photograph["name"] in str(page.locator("#explorer-photograph").get_attribute("aria-label"))
    assert page.locator("[name=randomized]").get_attribute("aria-valuetext") == "9 of 16, down to conv4_1"
    for name, value in (("ssim", found["ssim"][row][1]), ("floor", found["floor"]), ("rank", found["rank"][row][1])):
        assert page.locator(f"#explorer-value-{name}").inner_text() == f"{value:.2f}".replace("-", "−")
    logit = f"{photograph['logits'][row][1]:.2f}".replace("-", "−")
    assert page.locator("#explorer-value-logit").inner_text() == f"{logit} ({names[1]})"
    assert page.locator("#explorer-value-top").inner_text() == f"{photograph['top_logit'][row]:.2f} ({top})"
    curve = str(page.locator("#explorer-curve").get_attribute("aria-label"))
    assert f"for {names[1]} " + ", ".join(f"{r[1]:.2f}" for r in found["ssim"]) in curve


def test_every_control_has_a_name_for_listeners(page: Page) -> None:
    first = DATA["photographs"][0]
    for role, name in (
        ("combobox", "Rule"),
        ("slider", "Random layers, from the top"),
        ("group", "Photograph"),
        ("group", "Class that is asked for"),
        ("radio", first["name"]),
        ("radio", f"{DATA['categories'][first['classes'][1]]} (another one)"),
    ):
        assert page.get_by_role(role, name=name).first.is_visible(), name  # type: ignore[arg-type]
    for name in ("The photograph:", "Reference map of", "Map of", "SSIM with the reference map at"):
        assert page.get_by_role("img", name=re.compile(f"^{name}")).is_visible(), name


def test_the_keyboard_alone_reaches_and_changes_everything(page: Page) -> None:
    settled(page)
    reached: list[str] = []
    for _ in range(4):
        page.keyboard.press("Tab")
        name = page.evaluate("document.activeElement.name")
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", f"{name}: the focus cannot be seen"
        reached.append(name)
        page.keyboard.press("ArrowRight" if name != "rule" else "ArrowDown")
    assert reached == ["photograph", "rule", "randomized", "class"]
    rules = [rule for members in DATA["families"].values() for rule in members]
    second = DATA["photographs"][1]
    assert state_of(page) == in_address(page)
    assert state_of(page) == {
        "photograph": second["id"],
        "rule": rules[rules.index("guided_backprop") + 1],
        "class": slug(second["classes"][1]),
        "randomized": str(DATA["stages"][1]["layers"]),
    }


@pytest.mark.parametrize("separator", ["?", "#"])
def test_an_address_brings_its_state_back(page: Page, alone: str, separator: str) -> None:
    for state in [*links(), {**DEFAULT, "photograph": DATA["photographs"][-1]["id"], "rule": "edges"}]:
        wanted = {**state, "class": state["class"] if state in links() else slug(DATA["photographs"][-1]["classes"][1])}
        page.goto("about:blank")
        page.goto(f"{alone}{separator}{urlencode(wanted)}")
        settled(page)
        assert state_of(page) == wanted
        assert "The address asks for" not in status(page)


def test_part_of_a_state_is_enough_and_a_heading_in_the_address_is_no_state(page: Page, alone: str) -> None:
    page.goto(f"{alone}?rule=lrp_z#about-ssim")
    assert state_of(page) == {**DEFAULT, "rule": "lrp_z"}
    page.goto(f"{alone}?highlight=rule")
    assert state_of(page) == DEFAULT
    assert "The address asks for" not in status(page)


def test_the_back_button_takes_choices_back(page: Page, alone: str) -> None:
    page.goto(f"{alone}?rule=gradient")
    seen = [state_of(page)]
    page.locator("[name=class]").nth(1).check()
    seen.append(state_of(page))
    page.locator("[name=randomized]").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    pictures = shown(page)
    page.go_back()
    page.go_back()
    assert state_of(page) == seen[1]
    page.go_back()
    assert state_of(page) == seen[0]
    assert difference(shown(page), tile(0, "gradient", 0, 0)) < 0.002
    for _ in range(3):
        page.go_forward()
    assert difference(shown(page), pictures) < 0.001


@pytest.mark.parametrize(
    ("address", "kept", "named"),
    [
        ({"rule": "magic"}, {}, ["rule = “magic”"]),
        ({"photograph": "imagenet_99_1", "rule": "gradient"}, {"rule": "gradient"}, ["photograph = “imagenet_99_1”"]),
        ({"class": "unicorn", "randomized": "5"}, {}, ["class = “unicorn”", "randomized = “5”"]),
        ({"rule": "<img src=x>"}, {}, ["rule = “<img src=x>”"]),
    ],
)
def test_a_bad_address_falls_back_and_says_so(
    page: Page, alone: str, address: State, kept: State, named: list[str]
) -> None:
    page.goto(f"{alone}#{urlencode(address)}")
    page.reload()
    settled(page)
    assert state_of(page) == {**DEFAULT, **kept}
    assert status(page).startswith(f"The address asks for {' and '.join(named)}, which this page does not have")
    page.locator("[name=class]").nth(1).check()
    assert "The address asks for" not in status(page)
    assert in_address(page) == state_of(page)


@pytest.mark.parametrize("page", ["light", "dark"], indirect=True)
def test_text_and_lines_can_be_read_in_both_themes(page: Page) -> None:
    settled(page)
    assert page.evaluate("document.documentElement.dataset.theme") in ("light", "dark")
    found = page.evaluate(CONTRAST)
    assert len(found) > 25
    assert [(name, round(ratio, 1)) for name, ratio, least in found if ratio < least] == []


def test_themes_differ_and_leave_the_map_alone(browser: Browser, alone: str) -> None:  # noqa: F811
    looks = {}
    for scheme in ("light", "dark"):
        with _watched(browser, alone.rpartition("book/")[0], scheme, []) as opened:
            opened.goto(alone)
            looks[scheme] = opened.evaluate("getComputedStyle(document.querySelector('legend')).color"), shown(opened)
    assert looks["light"][0] != looks["dark"][0]
    assert difference(looks["light"][1], looks["dark"][1]) < 0.001


def test_on_a_phone_nothing_sticks_out_and_the_first_screen_has_controls_and_map(page: Page) -> None:
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    for rule in ("contrastive_excitation_bp", "deeplift_ablation_code"):
        page.goto(page.url.partition("#")[0] + f"#rule={rule}&randomized=9")
        settled(page)
        overflow = page.evaluate(OVERFLOW)
        assert (overflow["excess"], overflow["names"]) == (0, [])
    boxes = [page.locator(f"#explorer-{name}").bounding_box() for name in ("form", "map")]
    assert all(boxes)
    form, picture = ((box["y"], box["y"] + box["height"]) for box in boxes if box)
    assert form[1] <= picture[0]
    assert picture[1] <= PHONE["height"]
    assert all(
        r["height"] >= 24
        for r in page.evaluate("""() =>
        [...document.querySelectorAll('.explorer :is(label, select, input[type=range])')]
        .filter(e => !e.htmlFor).map(e => e.getBoundingClientRect().toJSON())""")
    ), "too small for a finger"


def test_without_the_data_the_page_says_so(browser: Browser, alone: str) -> None:  # noqa: F811
    with _watched(browser, alone.rpartition("book/")[0], "light", []) as opened:
        opened.route("**/data.js", lambda route: route.abort())
        opened.goto(alone)
        assert status(opened) == "The data of this page could not be loaded, so there is nothing to choose."
        assert not opened.locator("#explorer-form").is_visible()


def test_a_picture_that_is_missing_is_named_and_asked_for_again(browser: Browser, alone: str) -> None:  # noqa: F811
    with _watched(browser, alone.rpartition("book/")[0], "light", []) as opened:
        opened.route("**/*-gradient.webp", lambda route: route.abort())
        opened.goto(f"{alone}#rule=gradient")
        opened.wait_for_function(
            "document.querySelector('#explorer-status').textContent.includes('could not be loaded')"
        )
        assert "imagenet_00_243-gradient.webp" in status(opened)
        opened.unroute("**/*-gradient.webp")
        opened.locator("[name=class]").nth(1).check()
        assert difference(shown(opened), tile(0, "gradient", 0, 1)) < 0.002


def test_a_change_of_class_or_stage_asks_for_no_new_file(page: Page) -> None:
    settled(page)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.locator("[name=class]").nth(1).check()
    page.locator("[name=randomized]").fill("3")
    settled(page)
    assert asked == []
    page.locator("[name=rule]").select_option(label="Gradient")
    settled(page)
    assert [url.rpartition("/")[2] for url in asked] == ["imagenet_00_243-gradient.webp"]


def test_without_scripts_there_is_a_sentence_and_a_picture(browser: Browser, alone: str) -> None:  # noqa: F811
    context = browser.new_context(java_script_enabled=False)
    opened = context.new_page()
    opened.goto(alone)
    assert "Choosing needs JavaScript." in opened.locator("noscript").inner_text()
    image = opened.locator("noscript img")
    assert image.is_visible()
    assert str(image.get_attribute("src")).endswith(DATA["photographs"][0]["rules"]["guided_backprop"]["sheet"])
    assert not opened.locator("#explorer-form").is_visible()
    context.close()
