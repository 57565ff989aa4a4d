"""How much the columns of LRP-αβ scatter in the layers of a real network: the number that decides if it aligns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from modbp.backward import check_inputs
from modbp.checks import seeded, whole
from modbp.errors import InputError
from modbp.theory import rank_one

if TYPE_CHECKING:
    import pandas as pd


def column_energies(
    model: nn.Module, inputs: Tensor, alphas: Sequence[float] = (1, 2, 5, 10), positions: int = 8, seed: int = 0
) -> pd.DataFrame:
    r"""Return the energy of the columns of LRP-αβ without bias, layer by layer, beside what random weights would have.

    Below an energy of 1 a chain of independent layers forgets its start, above it does not (theory page, thm-energy
    and law-relu; ours). At each layer the exact matrix is formed at a sample of positions: its columns say how the
    output channels there share out relevance among the inputs in reach.

    Parameters
    ----------
    model : nn.Module
        Whose dense layers and convolutions (in one group) receive activations that are not negative; layers that
        receive others, such as the first one of most networks, are left out.
    inputs : Tensor, shape (images, ...)
    alphas : sequence of float, default (1, 2, 5, 10)
        β is α − 1.
    positions : int, default 8
        How many positions of each convolution and image are drawn.
    seed : int, default 0
        For the positions.

    Returns
    -------
    pandas.DataFrame
        A row for each layer and α, in the order in which the layers run. Columns: `layer`, `alpha`, `energy` (median
        over positions and images), `participation` (the median participation ratio of the activations in reach),
        `law` (the energy that Gaussian weights would have at that ratio).

    Raises
    ------
    InputError
        If an argument is not usable, or no layer receives activations that are not negative.

    Examples
    --------
    >>> _ = torch.manual_seed(0)
    >>> net = nn.Sequential(nn.Linear(8, 400), nn.ReLU(), nn.Linear(400, 300))
    >>> table = column_energies(net, torch.randn(2, 8), alphas=[1, 10])
    >>> [(layer, bool(energy < 1)) for layer, energy in zip(table["layer"], table["energy"])]
    [('2', True), ('2', False)]
    """
    import pandas as pd

    (samples,) = check_inputs((inputs,))
    whole("positions", positions)
    if not alphas or min(alphas) < 1:
        raise InputError(f"alphas is {alphas!r}; allowed are one or more numbers from 1 upwards.")
    generator = seeded(seed)
    found: dict[str, list[tuple[float, dict[float, float]]]] = {}
    names: dict[nn.Module, str] = {m: name for name, m in model.named_modules() if isinstance(m, nn.Linear | nn.Conv2d)}

    def measure(module: nn.Module, args: Any) -> None:
        a = args[0].detach()
        if bool((a < 0).any()) or getattr(module, "groups", 1) != 1:
            return
        weight = module.weight.detach().flatten(1)  # type: ignore[operator]
        for patch in _patches(module, a, positions, generator):
            plus = rank_one.z_plus_matrix(patch, weight)
            minus = rank_one.z_plus_matrix(patch, -weight)
            live = (plus.sum(0) > 0) & (minus.sum(0) > 0)
            if int(live.sum()) > 1:
                energies = {
                    alpha: float(rank_one.column_energy((alpha * plus - (alpha - 1) * minus)[:, live]))
                    for alpha in alphas
                }
                ratio = float(rank_one.participation_ratio(patch))
                found.setdefault(names[module], []).append((ratio, energies))

    handles = [module.register_forward_pre_hook(measure) for module in names]
    try:
        with torch.no_grad():
            for x in samples.split(1):
                model(x)
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        raise InputError("no layer of the model receives activations that are not negative; allowed are ReLU networks.")
    rows = []
    for layer, values in found.items():
        ratio = torch.tensor([r for r, _ in values]).median().item()
        for alpha in alphas:
            energy = torch.tensor([energies[alpha] for _, energies in values]).median().item()
            law = rank_one.alpha_beta_energy(alpha, ratio)
            rows.append({"layer": layer, "alpha": alpha, "energy": energy, "participation": ratio, "law": law})
    return pd.DataFrame(rows)


def _patches(module: nn.Module, a: Tensor, positions: int, generator: torch.Generator) -> Tensor:
    """Return what outputs at some positions receive, shape (positions, entries of a weight)."""
    if isinstance(module, nn.Linear):
        return a.reshape(-1, a.shape[-1])[:positions]
    assert isinstance(module, nn.Conv2d)
    (kh, kw), (sh, sw), (dh, dw) = module.kernel_size, module.stride, module.dilation
    pad = module.padding if isinstance(module.padding, tuple) else ((dh * (kh - 1)) // 2, (dw * (kw - 1)) // 2)
    a = F.pad(a[0], (int(pad[1]), int(pad[1]), int(pad[0]), int(pad[0])))
    rows = torch.randint((a.shape[1] - dh * (kh - 1) - 1) // sh + 1, (positions,), generator=generator) * sh
    columns = torch.randint((a.shape[2] - dw * (kw - 1) - 1) // sw + 1, (positions,), generator=generator) * sw
    return torch.stack(
        [
            a[:, r : r + dh * (kh - 1) + 1 : dh, c : c + dw * (kw - 1) + 1 : dw].flatten()
            for r, c in zip(rows.tolist(), columns.tolist(), strict=True)
        ]
    )
