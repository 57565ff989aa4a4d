"""What a sweep checks before it starts, what it plans, and the keys of its rows."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from distributed.nanny import _get_env_variables
from hypothesis import given
from hypothesis import strategies as st
from sweep_networks import keys_of, pictures

from modbp import METHODS, cli
from modbp.errors import InputError
from modbp.layers import activation_points, running_order
from modbp.sweep import clusters, measures, plan, worker
from modbp.sweep.measures import MEASUREMENTS, Method, digest, row_key
from modbp.sweep.plan import Grid

TINY = "sweep_networks:tiny"
BASE: dict[str, Any] = {"measure": ["csc"], "methods": ["gradient"], "networks": [TINY], "images": "pics"}


@pytest.fixture
def pics(folder: Path) -> Path:
    return pictures(folder / "pics", 3)


def write(path: Path, grid: Any) -> None:
    path.write_text(grid if isinstance(grid, str) else yaml.safe_dump(grid), encoding="utf-8")


# What is refused


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (None, "the grid 'grid.yaml' cannot be read (No such file or directory)"),
        ("measure: [csc", "the grid 'grid.yaml' is no YAML (expected ',' or ']'"),
        ("- csc", "the grid 'grid.yaml' holds no mapping"),
        ("", "the grid 'grid.yaml' holds no mapping"),
        ("seeds: 0\nseeds: 1", "the key 'seeds' is given twice; allowed is once."),
        ({"methods": "all"}, "the grid has no key 'measure'"),
        ({"measure": "csc"}, "the grid has no key 'methods'"),
        ({"grid": {"seed": [0]}}, "the grid has no key 'notebook'"),
        (BASE | {"seed": 0}, "the grid has the key 'seed' (did you mean seeds?); allowed are measure, images,"),
        (BASE | {"measure": ["ccs"]}, "measure holds 'ccs' (did you mean csc?); allowed are csc, alignment,"),
        (BASE | {"measure": []}, "measure is empty; allowed are one or more."),
        (BASE | {"measure": ["csc", "csc"]}, "measure holds 'csc' twice; allowed is once."),
        (BASE | {"methods": ["gradeint"]}, "the method 'gradeint' is unknown (did you mean gradient?)"),
        (BASE | {"methods": ["captum:Salience"]}, "the method 'captum:Salience' is unknown (did you mean Saliency?)"),
        (BASE | {"methods": ["pattern_net"]}, "methods holds 'pattern_net', which needs patterns"),
        (BASE | {"methods": [{"method": "rectgrad", "percentil": 90}]}, "rectgrad does not take these options"),
        (BASE | {"methods": [{"name": "rectgrad"}]}, "methods holds {'name': 'rectgrad'}; allowed are names"),
        (BASE | {"methods": [{"method": "rectgrad", "percentile": [1]}]}, "the option percentile of rectgrad is [1]"),
        (BASE | {"methods": ["gradient", "gradient"]}, "methods holds 'gradient' twice"),
        (BASE | {"networks": "vgg61"}, "the network 'vgg61' is unknown (did you mean vgg16?)"),
        (
            BASE | {"networks": [{"network": "vgg16", "weight": "random"}]},
            "has the key 'weight' (did you mean weights?)",
        ),
        (BASE | {"networks": [{"network": "vgg16", "weights": "radom"}]}, "weights is 'radom' for vgg16; allowed are"),
        (BASE | {"networks": "no_such_module:net"}, "names a module 'no_such_module' that does not exist"),
        (BASE | {"networks": "sweep_networks:tinny"}, "does not exist (did you mean tiny"),
        (BASE | {"networks": "sweep_networks:random_transform"}, "sweep_networks:random_transform is random"),
        (BASE | {"layers": ["5"]}, None),
        (
            BASE | {"layers": ["inptu"]},
            "layers holds 'inptu' (did you mean input?); allowed in sweep_networks:tiny are",
        ),
        (BASE | {"seeds": [-1]}, "seed is -1; allowed are whole numbers from 0"),
        (BASE | {"seeds": [0, 0]}, "seeds holds 0 twice; allowed is once."),
        (BASE | {"images": "no-such"}, "the image folder 'no-such' does not exist"),
        (BASE | {"images": "."}, "the folder '.' holds no picture"),
        (BASE | {"n_images": 0}, "n_images is 0; allowed are whole numbers from 1 upwards."),
        (BASE | {"methods": ["captum:Saliency"]}, "measure is csc, which none of the methods and layers allows"),
        (BASE | {"measure": "randomization", "layers": ["2"]}, "measure is randomization, which none of the methods"),
        ({"notebook": "csc-vgg61", "grid": {"seed": [0]}}, "the walkthrough 'csc-vgg61' does not exist (did you mean"),
        ({"notebook": "csc-vgg16", "grid": {"sed": [0]}}, "csc-vgg16 has no parameter 'sed' (did you mean seed?)"),
        ({"notebook": "csc-vgg16"}, "grid is None; allowed is a mapping from the names of parameters."),
        ({"notebook": "csc-vgg16", "grids": {}}, "the grid has the key 'grids' (did you mean grid?)"),
    ],
)
def test_a_bad_grid_is_refused_in_one_sentence_before_anything_starts(
    grid: Any, said: str | None, pics: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "on_this_machine", lambda workers: pytest.fail("workers were to start"))
    if grid is not None:
        write(Path("grid.yaml"), grid)
    status = cli.main(["sweep", "grid.yaml", "--out", "out", "--dry-run"])
    captured = capfd.readouterr()
    assert not Path("out").exists()
    if said is None:  # so that the ones above and below it are refused for what they say
        assert status == 0, captured.err
        return
    assert status == 2
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    assert line.startswith("modbp: ")
    assert said in line
    assert line.endswith(".")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--workers", "0"], "workers is 0; allowed are whole numbers from 1 upwards."),
        (["--threads", "0"], "threads is 0; allowed are whole numbers from 1 upwards."),
        (["--write-every", "-1"], "every is -1.0; allowed are finite numbers from 0 upwards."),
        (["--device", "gpu"], "device is 'gpu'; allowed are auto, cpu, cuda."),
        (["--cluster", "none.yaml"], "the cluster 'none.yaml' cannot be read"),
        (["--out", "missing/out"], "which cannot be a folder to write to (No such file or directory)"),
        (["--scheduler", "tcp://127.0.0.1:1"], "the scheduler is 'tcp://127.0.0.1:1', where none answers"),
    ],
)
def test_options_are_refused_too(
    options: list[str], said: str, pics: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clusters, "ANSWER", 1)
    write(Path("grid.yaml"), BASE)
    assert cli.main(["sweep", "grid.yaml", "--out", "out", *options]) == 2
    assert said in capfd.readouterr().err
    assert not Path("out").exists()


def test_the_folder_of_another_sweep_is_not_written_to(pics: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import fcntl

    write(Path("grid.yaml"), BASE)
    Path("out").mkdir()
    held = os.open("out", os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    try:
        assert cli.main(["sweep", "grid.yaml", "--out", "out"]) == 2
    finally:
        os.close(held)
    assert "in use" in capfd.readouterr().err.replace("is running in", "in use")


def test_without_the_extra_one_sentence_says_so_and_importing_the_command_needs_none_of_it(folder: Path) -> None:
    heavy = "('distributed', 'dask', 'pyarrow', 'torch')"
    code = f"import sys\nfrom modbp import cli\ncli.parser()\nprint([m for m in {heavy} if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[]\n", done.stderr
    for missing in ("distributed", "pyarrow", "yaml"):
        code = f"import sys\nsys.modules[{missing!r}] = None\nfrom modbp import cli\n"
        code += "sys.exit(cli.main(['sweep', 'grid.yaml', '--out', 'out']))"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
        assert done.returncode == 2
        assert done.stderr == f"modbp: modbp sweep needs {missing}; install it with: pip install 'modbp[sweep]'.\n"


# What is planned


def test_all_methods_are_those_that_need_no_patterns() -> None:
    found = {m.name for m in Grid.of({"measure": "csc", "methods": "all"}).methods}
    assert set(METHODS) - found == {"pattern_net", "pattern_attribution"}


def test_everything_is_measured_of_every_picture_with_every_network(pics: Path) -> None:
    grid = BASE | {
        "measure": list(MEASUREMENTS),
        "methods": ["gradient", "lrp_zplus", "captum:Saliency"],
        "networks": [TINY, "sweep_networks:residual"],
        "seeds": [0, 5],
    }
    made = plan.plan(Grid.of(grid))
    tasks = list(made.tasks())
    assert [(t.subject.network.spec, t.picture.path.name) for t in tasks] == [
        (network, f"00{i}.png") for network in grid["networks"] for i in range(3)
    ]
    assert made.rows == sum(task.rows for task in tasks) == len(keys_of(grid))
    model, _ = worker.load(worker.Network(TINY))
    x = model.transform(worker.fixed_picture())[None]
    points = activation_points(model, x)
    (csc,) = {w.layers for w in tasks[0].wanted if w.measurement == "csc"}
    assert csc == ("input", *points.values())
    (alignment,) = {w.layers for w in tasks[0].wanted if w.measurement == "alignment"}
    assert alignment == ("input", "1", "4", "7")
    (randomization,) = {w.layers for w in tasks[0].wanted if w.measurement == "randomization"}
    assert randomization == tuple(running_order(model, x))
    by_name = {name: [w for w in tasks[0].wanted if w.measurement == name] for name in MEASUREMENTS}
    # What sends nothing from layer to layer is left out where layers are looked at, and the plan says so.
    assert {name: len(wanted) for name, wanted in by_name.items()} == {
        "csc": 2 * 2,
        "alignment": 2,
        "classes": (3 + 2) * 2,
        "randomization": (3 + 2) * 2,
        "flipping": (3 + 2) * 2,
    }
    assert made.notes == ("csc and alignment: left out captum:Saliency, which sends nothing from layer to layer",)


def test_an_activation_stands_for_its_layer_where_weights_are_random(pics: Path) -> None:
    grid = BASE | {"measure": ["csc", "randomization"], "layers": ["input", "4", "3", "5"]}
    (subject,) = plan.plan(Grid.of(grid)).subjects
    layers = {w.measurement: w.layers for w in subject.wanted}
    assert layers == {"csc": ("input", "4", "3", "5"), "randomization": ("3",)}
    own = BASE | {"layers": ["1"], "networks": [TINY, {"network": "sweep_networks:residual", "layers": ["relu"]}]}
    first, second = plan.plan(Grid.of(own)).subjects
    assert [s.wanted[0].layers for s in (first, second)] == [("1",), ("relu",)]


def test_a_picture_that_is_there_twice_is_measured_once_and_an_unreadable_one_is_planned(pics: Path) -> None:
    (pics / "copy.png").write_bytes((pics / "001.png").read_bytes())
    (pics / "broken.png").write_bytes(b"no picture")
    (pics / "notes.txt").write_text("no picture either")
    (pics / "gone.png").symlink_to("nowhere")
    found = plan.pictures("pics", None)
    assert [p.path.name for p in found] == ["000.png", "001.png", "002.png", "broken.png"]
    assert [p.path.name for p in plan.pictures("pics", 2)] == ["000.png", "001.png"]
    if os.geteuid():  # root reads everything
        (pics / "000.png").chmod(0)
        assert plan.pictures("pics", 1)[0].reason == "it cannot be read (Permission denied)"


def test_a_picture_that_changes_after_the_plan_is_not_measured_under_its_old_key(pics: Path) -> None:
    task = next(plan.plan(Grid.of(BASE)).tasks())
    assert task.order().content == (pics / "000.png").read_bytes()
    (pics / "000.png").write_bytes(b"another")
    with pytest.raises(InputError, match="has changed since the sweep began"):
        task.order()


def test_what_is_done_is_not_planned_again(pics: Path) -> None:
    grid = BASE | {"measure": ["csc", "classes"], "seeds": [0, 1], "layers": ["input", "1"]}
    made = plan.plan(Grid.of(grid))
    every = keys_of(grid)
    assert list(made.tasks(every)) == []
    rest = list(made.tasks(keys_of(grid | {"measure": "csc", "layers": "1"})))
    assert {w.layers for t in rest for w in t.wanted if w.measurement == "csc"} == {("input",)}
    assert sum(t.rows for t in rest) == made.rows - 3 * 2 * 4
    # A row alone is not done without its neighbors of the same measurement.
    lost = next(iter(every))
    (task,) = made.tasks(every - {lost})
    assert len(task.wanted) == 1


# Keys


def test_keys_do_not_depend_on_the_order_the_names_the_process_or_how_a_number_is_written(pics: Path) -> None:
    grid = BASE | {
        "measure": ["csc", "classes"],
        "methods": ["gradient", {"method": "rectgrad", "percentile": 90}],
        "seeds": [0, 1],
    }
    keys = keys_of(grid)
    other = {name: list(reversed(v)) if isinstance(v, list) else v for name, v in reversed(grid.items())}
    other["methods"] = [{"percentile": 90.0, "method": "rectgrad"}, "gradient"]
    for path in sorted(pics.iterdir()):
        path.rename(path.with_name(f"z{9 - int(path.stem)}.png"))
    code = "import json, sys\nfrom sweep_networks import keys_of\n"
    code += "print(json.dumps(sorted(keys_of(json.loads(sys.argv[1])))))"
    environment = os.environ | {"PYTHONHASHSEED": "12345", "PYTHONPATH": str(Path(__file__).parent)}
    done = subprocess.run(
        [sys.executable, "-c", code, json.dumps(other)], capture_output=True, text=True, env=environment
    )
    assert set(json.loads(done.stdout)) == keys, done.stderr
    assert all(len(key) == 32 and set(key) <= set("0123456789abcdef") for key in keys)


def test_keys_tell_apart_all_that_a_row_depends_on(pics: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = MEASUREMENTS["csc"]
    base: dict[str, Any] = {
        "measurement": kind,
        "quantity": "median",
        "subject": {"weights": "a", "architecture": "b", "preprocessing": "c", "image": "d"},
        "method": Method("rectgrad", (("percentile", 90),)),
        "layer": "1",
        "seed": 0,
    }
    changes: list[dict[str, Any]] = [
        {},
        {"measurement": MEASUREMENTS["alignment"]},
        {"measurement": dataclasses.replace(kind, version=kind.version + 1)},
        {"quantity": "mean"},
        *({"subject": base["subject"] | {name: "z"}} for name in base["subject"]),
        {"method": Method("rectgrad")},
        {"method": Method("rectgrad", (("percentile", 91),))},
        {"method": Method("gradient", (("percentile", 90),))},
        {"layer": "2"},
        {"layer": None},
        {"seed": 1},
        {"seed": None},
    ]
    found = [row_key(**(base | change)) for change in changes]
    assert len(set(found)) == len(changes)


def test_the_identity_of_a_network_is_what_it_computes_and_not_what_it_is_called() -> None:
    import sweep_networks as nets
    from torch import nn

    def identity(network: nn.Module, transform: Any = nets.to_tensor) -> worker.Identity:
        network.transform = transform  # type: ignore[assignment]
        return worker.Identity.of(network, "it")

    first = identity(nets.Tiny())
    assert first == identity(nets.Tiny(), lambda picture: nets.to_tensor(picture))
    other = nets.Tiny()
    other[8].weight.data[0, 0] += 1e-6
    assert identity(other).weights != first.weights
    smooth = nets.Tiny()
    smooth[1] = nn.Tanh()  # the same weights
    assert identity(smooth).weights == first.weights
    assert identity(smooth).architecture != first.architecture
    scaled = identity(nets.Tiny(), lambda picture: 2 * nets.to_tensor(picture))
    assert (scaled.weights, scaled.architecture) == (first.weights, first.architecture)
    assert scaled.preprocessing != first.preprocessing


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, min_size=2, max_size=4), st.randoms())
def test_a_digest_is_that_of_the_mapping_whatever_its_order(value: dict[str, Any], random: Any) -> None:
    names = list(value)
    random.shuffle(names)
    assert digest({name: value[name] for name in names}) == digest(json.loads(json.dumps(value)))
    name = names[0]
    assert digest(value | {name: [value[name], 1]}) != digest(value)


# Clusters of jobs


SLURM = {
    "kind": "slurm",
    "jobs": 10,
    "cores": 4,
    "memory": "16GB",
    "walltime": "02:00:00",
    "queue": "gpu",
    "job_extra_directives": ["--gres=gpu:1"],
}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "slrum"}, "kind is 'slrum' (did you mean slurm?); allowed are slurm, pbs, sge, lsf,"),
        ({"wall_time": "1"}, "the cluster has the key 'wall_time' (did you mean walltime?); allowed are kind, jobs,"),
        ({"cores": None}, "the cluster has no key 'cores'"),
        ({"memory": None}, "the cluster has no key 'memory'"),
        ({"jobs": 0}, "jobs is 0; allowed are whole numbers from 1 upwards."),
        ({"resource_spec": "x"}, "the cluster has the key 'resource_spec'"),  # PBS has it, and Slurm not
    ],
)
def test_a_bad_description_of_a_cluster_is_refused(change: dict[str, Any], said: str, folder: Path) -> None:
    described = {name: value for name, value in (SLURM | change).items() if value is not None}
    write(folder / "cluster.yaml", described)
    with pytest.raises(InputError) as caught:
        clusters.read(folder / "cluster.yaml")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("slurm", ["#SBATCH -p gpu", "#SBATCH --cpus-per-task=4", "#SBATCH --mem=15G", "#SBATCH -t 02:00:00"]),
        ("pbs", ["#PBS -q gpu", "#PBS -l walltime=02:00:00", "#PBS -l select=1:ncpus=4:mem=15GB"]),
        ("sge", ["#$ -q gpu", "#$ -l h_rt=02:00:00"]),
        ("lsf", ["#BSUB -q gpu", "#BSUB -n 4", "#BSUB -W 02:00"]),
    ],
)
def test_the_job_script_asks_for_what_was_described(kind: str, said: list[str], folder: Path) -> None:
    write(folder / "cluster.yaml", SLURM | {"kind": kind, "walltime": "02:00" if kind == "lsf" else "02:00:00"})
    cluster = clusters.make(clusters.read(folder / "cluster.yaml"))
    try:
        script = cluster.job_script()
    finally:
        cluster.close()
    for line in said:
        assert line in script
    assert "--gres=gpu:1" in script
    # A worker for each core, unless `processes` says otherwise.
    assert "--nthreads 1 " in script
    assert "--nworkers 4 " in script


def test_workers_keep_their_memory_wherever_they_run(folder: Path) -> None:
    """What dask sets by default makes a worker give back every tensor's memory."""
    threshold = next(iter(clusters.WITHOUT))
    assert threshold in spawned("true")
    with clusters._settings():
        assert threshold not in _get_env_variables(clusters.SPAWNED)
    # A job's own process reads it from its environment, as the job script sets it; so does the line on the page.
    write(folder / "cluster.yaml", SLURM | {"job_script_prologue": ["source activate"]})
    script = script_of(folder / "cluster.yaml").splitlines()
    (line,) = [each for each in script if each.startswith("export DASK")]
    assert script.index(line) < script.index("source activate")
    (page,) = [each for block in blocks("sh") for each in block.splitlines() if each.startswith("export DASK")]
    for each in (line, page):
        found = spawned(each)
        assert threshold not in found
        assert found["OMP_NUM_THREADS"] == "1"


def spawned(line: str) -> dict[str, str]:
    """The variables that a nanny gives to its worker, behind a line of shell."""
    asked = (
        "import json; from distributed.nanny import _get_env_variables as get;"
        f" print(json.dumps(get('{clusters.SPAWNED}')))"
    )
    done = subprocess.run(
        ["bash", "-c", f"{line}; {shlex.join([sys.executable, '-c', asked])}"],
        capture_output=True,
        text=True,
        check=True,
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


def test_labels_of_methods_are_apart(folder: Path) -> None:
    given = ["rectgrad", *({"method": "rectgrad", "percentile": p} for p in (90, 95.5))]
    labels = [m.label for m in Grid.of(BASE | {"methods": given}).methods]
    assert labels == ["rectgrad", "rectgrad(percentile=90)", "rectgrad(percentile=95.5)"]
    for a, b in itertools.combinations(measures.MEASUREMENTS.values(), 2):
        assert a.name != b.name


# The page


PAGE = Path(__file__).resolve().parents[1] / "book" / "how-to-sweep.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def test_every_file_on_the_page_is_one_that_is_taken(folder: Path) -> None:
    kinds = []
    for number, block in enumerate(blocks("yaml")):
        path = folder / f"{number}.yaml"
        path.write_text(block, encoding="utf-8")
        if "kind:" in block:
            kinds.append("cluster")
            assert "#SBATCH --gres=gpu:1" in script_of(path)
        else:
            kinds.append(type(plan.read(path)).__name__)
    assert kinds == ["Grid", "Grid", "Runs", "cluster"]


def script_of(path: Path) -> str:
    cluster = clusters.make(clusters.read(path))
    try:
        return str(cluster.job_script())
    finally:
        cluster.close()


def test_every_command_on_the_page_is_one_that_the_command_takes() -> None:
    words = [shlex.split(line) for block in blocks("bash") for line in block.splitlines()]
    own = [line for line in words if line[0] == "modbp"]
    assert len(own) == 5
    for _, *arguments in own:
        assert cli.parser().parse_args(arguments).command == "sweep"


def test_the_tables_of_the_page_have_every_key_measurement_and_quantity() -> None:
    text = PAGE.read_text(encoding="utf-8")
    rows = [line.strip("|").split("|") for line in text.splitlines() if line.startswith("| `")]
    named = {row[0].strip().strip("`"): row for row in rows}
    assert set(named) == {*plan.MEASURING, *MEASUREMENTS}
    for name, kind in MEASUREMENTS.items():
        _, _, numbers, layered, seeded = named[name]
        assert (layered.strip(), seeded.strip()) == tuple("yes" if yes else "no" for yes in (kind.layered, kind.seeded))
        if name in ("csc", "alignment", "flipping"):
            assert all(quantity in numbers for quantity in kind.quantities)
    for kind in clusters.KINDS:
        assert kind == "local" or f"`{kind}`" in text
