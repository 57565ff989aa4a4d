"""Small random networks for experiments, ResNet-50, and controls without what was learned.

A walkthrough that varies depth, width or seed wants networks that are made in a moment and are known in full; the
theorems about random layers speak of exactly these. All of them have the initialization of He et al. (2015,
equation 10): weights from N(0, 2 / fan in), which keeps the size of a signal from one ReLU layer to the next.
"""

from __future__ import annotations

import copy
import math
import zlib
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from modbp._torchvision import torchvision
from modbp.checks import at_least_one, not_negative, seeded
from modbp.errors import InputError
from modbp.layers import NORMS as LEARNED_NORMS
from modbp.layers import WEIGHTED
from modbp.zoo import IMAGENET, RANDOM, download, imagenet_categories, labeled

RESNET50_WEIGHTS = (RANDOM, IMAGENET)


def random_mlp(
    width: int,
    depth: int,
    inputs: int | None = None,
    outputs: int | None = None,
    bias: float = 0.0,
    seed: int = 0,
) -> nn.Sequential:
    """Return a fully connected ReLU network with random weights, in eval mode.

    Parameters
    ----------
    width : int
        Neurons of each hidden layer.
    depth : int
        How many linear layers; each but the last has a ReLU behind it.
    inputs, outputs : int, optional
        How many there are; by default `width`.
    bias : float, default 0.0
        Standard deviation of the biases. The weights of a seed do not depend on it.
    seed : int, default 0

    Returns
    -------
    nn.Sequential
        Linear layers `"0"`, `"2"`, ... with weights from N(0, 2 / fan in), and ReLUs `"1"`, `"3"`, ... between them.

    Raises
    ------
    InputError
        If a size is below 1, or the bias is negative or not finite.

    Examples
    --------
    >>> random_mlp(width=16, depth=2, inputs=4, outputs=3)
    Sequential(
      (0): Linear(in_features=4, out_features=16, bias=True)
      (1): ReLU()
      (2): Linear(in_features=16, out_features=3, bias=True)
    )
    """
    inputs, outputs = (width if size is None else size for size in (inputs, outputs))
    at_least_one(width=width, depth=depth, inputs=inputs, outputs=outputs)
    generator = seeded(seed)
    not_negative("bias", bias)
    sizes = [inputs, *[width] * (depth - 1), outputs]
    layers: list[nn.Module] = []
    for fan_in, fan_out in pairwise(sizes):
        layers += [_he_linear(fan_in, fan_out, generator, bias=bias), nn.ReLU()]
    return nn.Sequential(*layers[:-1]).eval()


class ResidualBlock(nn.Module):
    r"""A residual block of two linear layers, :math:`h\mapsto[h+W_2[W_1h+b_1]^++b_2]^+`.

    Parameters
    ----------
    first, second : nn.Linear
        :math:`W_1` and :math:`W_2`; the second has as many outputs as the first has inputs.

    Examples
    --------
    >>> block = ResidualBlock(nn.Linear(4, 4), nn.Linear(4, 4))
    >>> _ = nn.init.zeros_(block.second.weight), nn.init.zeros_(block.second.bias)
    >>> block(torch.tensor([[1.0, 2.0, -3.0, 0.0]])).tolist()
    [[1.0, 2.0, 0.0, 0.0]]
    """

    def __init__(self, first: nn.Linear, second: nn.Linear) -> None:
        super().__init__()
        self.first, self.second = first, second
        self.inner, self.outer = nn.ReLU(), nn.ReLU()

    def forward(self, h: Tensor) -> Tensor:
        """Return the block's activation, of the shape of its input."""
        branch: Tensor = self.second(self.inner(self.first(h)))
        return self.outer(h + branch)


class ResidualMLP(nn.Module):
    """A fully connected residual network: a ReLU layer, blocks, and a linear layer.

    Parameters
    ----------
    stem : nn.Sequential
        From the input to the first activation, which is the input of the first block.
    blocks : sequence of ResidualBlock
    head : nn.Linear
        From the last block to the output.

    Examples
    --------
    >>> network = residual_mlp(width=8, blocks=2, seed=1)
    >>> [name for name, _ in network.named_children()], len(network.blocks)
    (['stem', 'blocks', 'head'], 2)
    """

    def __init__(self, stem: nn.Sequential, blocks: list[ResidualBlock], head: nn.Linear) -> None:
        super().__init__()
        self.stem, self.blocks, self.head = stem, nn.Sequential(*blocks), head

    def forward(self, x: Tensor) -> Tensor:
        """Return the outputs, shape (batch, outputs), for inputs of shape (batch, inputs)."""
        return self.head(self.blocks(self.stem(x)))


def residual_mlp(
    width: int = 256,
    blocks: int = 8,
    inputs: int | None = None,
    outputs: int = 10,
    bias: float = 0.0,
    seed: int = 0,
    branch_scale: float = 1.0,
) -> ResidualMLP:
    r"""Return a fully connected residual network with random weights, in eval mode.

    Parameters
    ----------
    width : int, default 256
        Neurons of each layer.
    blocks : int, default 8
    inputs : int, optional
        How many there are; by default `width`.
    outputs : int, default 10
    bias : float, default 0.0
        Standard deviation of the biases. The weights of a seed do not depend on it.
    seed : int, default 0
    branch_scale : float, default 1.0
        What the second layer of each block is multiplied by. With 1 a block about doubles the mean square of its
        input, and most relevance takes the branches; with :math:`1/\sqrt{\text{blocks}}` the activations keep their
        size at any depth, and most relevance takes the skip connections.

    Returns
    -------
    ResidualMLP
        With the modules `stem` (its output is the input of the first block), `blocks.0`, `blocks.1`, ... and `head`.

    Raises
    ------
    InputError
        If a size is below 1, or the bias or the scale is negative or not finite.

    Examples
    --------
    >>> residual_mlp(width=16, blocks=3, inputs=4)(torch.ones(2, 4)).shape
    torch.Size([2, 10])
    """
    inputs = width if inputs is None else inputs
    at_least_one(width=width, blocks=blocks, inputs=inputs, outputs=outputs)
    generator = seeded(seed)
    not_negative("bias", bias)
    not_negative("branch_scale", branch_scale)
    stem = nn.Sequential(_he_linear(inputs, width, generator, bias=bias), nn.ReLU())
    made = [
        ResidualBlock(
            _he_linear(width, width, generator, bias=bias),
            _he_linear(width, width, generator, bias=bias, scale=branch_scale),
        )
        for _ in range(blocks)
    ]
    return ResidualMLP(stem, made, _he_linear(width, outputs, generator, bias=bias)).eval()


def resnet50(weights: str = RANDOM, seed: int = 0, calibrate: Tensor | None = None) -> Any:
    """Load torchvision's ResNet-50 in eval mode.

    Parameters
    ----------
    weights : {"random", "imagenet"}, default "random"
        `"random"`: weights from N(0, 2 / fan in), zero biases, and batch norms that do nothing until they are
        calibrated. `"imagenet"`: torchvision's IMAGENET1K_V1, downloaded where it is not in the cache.
    seed : int, default 0
        For `"random"`.
    calibrate : Tensor, shape (images, 3, height, width), optional
        For `"random"`: inputs whose means and variances the batch norms then subtract and divide by. Without them the
        activations of a random network grow from block to block by a factor that no trained network has. In float64
        they return a network in float64.

    Returns
    -------
    nn.Module
        With the attributes `transform` (PIL image to input tensor, shape (3, 224, 224)), `categories` (names of the
        1000 classes), `imagenet_classes` (their numbers) and `source` (which weights these are), as `modbp.zoo.load`.

    Raises
    ------
    InputError
        If the weights are unknown, trained ones are to be calibrated, the inputs have another shape, or there is no
        network to download from.

    Examples
    --------
    >>> network = resnet50(calibrate=torch.rand(2, 3, 64, 64))
    >>> network.source, bool(network.layer1[0].bn1.running_mean.abs().max() > 0)
    ('random (seed 0)', True)
    """
    if weights not in RESNET50_WEIGHTS:
        raise InputError(f"weights is {weights!r}; allowed are {', '.join(RESNET50_WEIGHTS)}.")
    generator = seeded(seed)
    if calibrate is not None and weights != RANDOM:
        raise InputError(f"weights is {weights!r} with inputs to calibrate; allowed with them is {RANDOM}.")
    if calibrate is not None and (_last_positions(calibrate) < 2 or not calibrate.is_floating_point()):
        raise InputError(
            f"calibrate is {calibrate.dtype} of shape {tuple(calibrate.shape)}; allowed are floating-point tensors of"
            " shape (images, 3, height, width), with two images or one of more than 32 pixels, so that the last batch"
            " norm has a variance."
        )
    resnet = torchvision().models.resnet
    trained = resnet.ResNet50_Weights.IMAGENET1K_V1
    with torch.device("meta"):  # draws nothing, so that nobody's random numbers change
        network = resnet.ResNet(resnet.Bottleneck, [3, 4, 6, 3])
    if weights == IMAGENET:
        network.load_state_dict(download(trained, RANDOM), assign=True)
    else:
        network.to_empty(device="cpu")
        draw_he_weights(network, generator)
        if calibrate is not None:
            _calibrate(network.to(calibrate.dtype), calibrate)
    categories = imagenet_categories()
    return labeled(
        network.eval(),
        transform=trained.transforms(),
        categories=categories,
        imagenet_classes=list(range(len(categories))),
        source=weights if weights == IMAGENET else f"{RANDOM} (seed {seed})",
    )


def _he_linear(
    fan_in: int, fan_out: int, generator: torch.Generator, *, bias: float = 0.0, scale: float = 1.0
) -> nn.Linear:
    layer = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
    with torch.no_grad():
        layer.weight.copy_(scale * math.sqrt(2 / fan_in) * torch.randn(fan_out, fan_in, generator=generator))
        layer.bias.copy_(bias * torch.randn(fan_out, generator=generator))
    return layer


def draw_he_weights(network: nn.Module, generator: torch.Generator) -> None:
    """Draw all weights of a network from N(0, 2 / fan in), in place, and reset biases and batch norms.

    Parameters
    ----------
    network : nn.Module
        With two-dimensional convolutions, linear layers and batch norms.
    generator : torch.Generator

    Examples
    --------
    >>> layer = nn.Linear(200, 100)
    >>> draw_he_weights(layer, torch.Generator().manual_seed(0))
    >>> round(layer.weight.std().item(), 2), layer.bias.any().item()
    (0.1, False)
    """
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                fan_in = module.weight[0].numel()
                module.weight.copy_(math.sqrt(2 / fan_in) * torch.randn(module.weight.shape, generator=generator))
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.BatchNorm2d):
                module.reset_parameters()  # and its running statistics


def _calibrate(network: nn.Module, inputs: Tensor) -> None:
    """Set the statistics of the batch norms to those of the inputs, of each behind the norms before it."""

    def adopt(norm: nn.BatchNorm2d, arguments: tuple[Tensor]) -> None:
        variance, mean = torch.var_mean(arguments[0], dim=(0, 2, 3), correction=0)
        norm.running_mean, norm.running_var = mean, variance

    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    hooks = [norm.register_forward_pre_hook(adopt) for norm in norms]
    with torch.no_grad():
        network.eval()(inputs)
    for hook in hooks:
        hook.remove()


def _last_positions(inputs: Tensor) -> int:
    """Return how many values of a channel the last stage has, where 32 pixels have become one; 0 for no images."""
    if inputs.dim() != 4 or inputs.shape[1] != 3:
        return 0
    images, _, height, width = inputs.shape
    return images * math.ceil(height / 32) * math.ceil(width / 32)


def average_pooled(model: nn.Module) -> nn.Module:
    """Return a copy of a model in which average-pooling stands for each max-pooling, over the same windows.

    It tells what the max-pooling switches do to a map.

    Parameters
    ----------
    model : nn.Module
        The copy shares no weights with it.

    Returns
    -------
    nn.Module

    Raises
    ------
    InputError
        If a max-pooling module is dilated: no average-pooling has its windows.

    Examples
    --------
    >>> average_pooled(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2)))[2]
    AvgPool2d(kernel_size=2, stride=2, padding=0)
    """
    replaced = copy.deepcopy(model)
    for parent in list(replaced.modules()):
        for name, child in parent.named_children():
            if isinstance(child, nn.MaxPool2d):
                if child.dilation not in (1, (1, 1)):
                    raise InputError(f"{name} has dilation {child.dilation}; allowed is 1, as average-pooling has it.")
                average = nn.AvgPool2d(
                    child.kernel_size, child.stride, child.padding, child.ceil_mode, count_include_pad=False
                )
                setattr(parent, name, average.train(child.training))
    return replaced


LOADED = ("first", "last", "all_but_one")


def partly_loaded(trained: nn.Module, fresh: nn.Module, which: str, layer: int) -> nn.Module:
    """Return a network some of whose layers have the weights of one network and the rest those of another.

    Layers are those with weights, convolutions and linear ones, numbered from 0 in the order of `modules()`.
    Source: Nie et al. (2018), the public code's three ways to reload weights.

    Parameters
    ----------
    trained, fresh : nn.Module
        Two networks of one architecture. Neither is changed; the result shares their tensors.
    which : {"first", "last", "all_but_one"}
        Which layers come from `trained`: those up to `layer` and with it; those behind it; or all but `layer`. In the
        code these are called `part`, `reverse` and `only`.
    layer : int
        From 0. For `"first"` also -1, for none.

    Returns
    -------
    nn.Module

    Raises
    ------
    InputError
        If the way is unknown, there is no such layer, or the networks' layers differ.

    Examples
    --------
    >>> trained, fresh = random_mlp(width=4, depth=3, seed=0), random_mlp(width=4, depth=3, seed=1)
    >>> mixed = partly_loaded(trained, fresh, "first", 1)
    >>> [torch.equal(mixed[i].weight, trained[i].weight) for i in (0, 2, 4)]
    [True, True, False]
    """
    if which not in LOADED:
        raise InputError(f"which is {which!r}; allowed are {', '.join(LOADED)}.")
    known, drawn = weighted_layers(trained), weighted_layers(fresh)
    shapes = [[(n, tuple(p.shape)) for n, m in layers.items() for p in m.parameters()] for layers in (known, drawn)]
    if shapes[0] != shapes[1]:
        raise InputError("trained and fresh have different layers; allowed are two networks of one architecture.")
    least = -1 if which == "first" else 0
    if isinstance(layer, bool) or not isinstance(layer, int) or not least <= layer < len(known):
        raise InputError(
            f"layer is {layer!r}; allowed for {which!r} are whole numbers from {least} to {len(known) - 1}."
        )
    taken = {"first": lambda i: i <= layer, "last": lambda i: i > layer, "all_but_one": lambda i: i != layer}[which]
    mixed = _with(trained, {})
    for i, (name, module) in enumerate(weighted_layers(mixed).items()):
        if not taken(i):
            for parameter in list(module._parameters):
                module._parameters[parameter] = drawn[name]._parameters[parameter]
    return mixed


def weighted_layers(model: nn.Module) -> dict[str, nn.Module]:
    """Return the convolutions and linear layers of a model by name, in the order of `modules()`.

    Parameters
    ----------
    model : nn.Module

    Returns
    -------
    dict from str to nn.Module

    Examples
    --------
    >>> list(weighted_layers(random_mlp(width=4, depth=3)))
    ['0', '2', '4']
    """
    return {name: module for name, module in model.named_modules() if isinstance(module, WEIGHTED)}


NORMS = ("reset", "keep")


def randomized_layers(model: nn.Module, layers: Iterable[str], seed: int = 0, *, norms: str = "reset") -> nn.Module:
    """Return a network in which some layers have new weights: Glorot uniform, and zero biases.

    The draw of a layer depends on the seed and its name alone, so that what is drawn for few layers stays when more
    are, and layers of the same shape differ. Source: Sixt et al. (2020), read in their code, whose networks are
    initialized like that.

    Parameters
    ----------
    model : nn.Module
        It is left as it is; the result shares the tensors that are not drawn.
    layers : iterable of str
        Names of linear layers, convolutions and batch norms.
    seed : int, default 0
    norms : {"reset", "keep"}, default "reset"
        What becomes of the batch norms among the layers: they do nothing, as in a network that was never trained, or
        they keep what they have learned.

    Returns
    -------
    nn.Module

    Raises
    ------
    InputError
        If there is no such layer, or it has no weight, or `norms` is unknown.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> drawn = randomized_layers(net, ["1"])
    >>> drawn[0].weight is net[0].weight, bool((drawn[1].weight == net[1].weight).any())
    (True, False)
    """
    return _with(model, _drawn(model, layers, seed, norms))


def randomized_cascade(
    model: nn.Module, stages: Iterable[Sequence[str]], seed: int = 0, *, norms: str = "reset"
) -> Iterator[nn.Module]:
    """Yield a network for each stage in which that stage's layers are random: `randomized_layers`, drawn once for all.

    Parameters
    ----------
    model : nn.Module
        It is left as it is; the networks share all tensors that are equal.
    stages : iterable of sequence of str
        Names of layers.
    seed, norms
        As for `randomized_layers`.

    Yields
    ------
    nn.Module

    Raises
    ------
    InputError
        As `randomized_layers`, before the first network.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    >>> top, both = randomized_cascade(net, [["1"], ["1", "0"]])
    >>> top[1].weight is both[1].weight, top[0].weight is net[0].weight
    (True, True)
    """
    parts = [list(names) for names in stages]
    drawn = {name: _drawn(model, [name], seed, norms) for name in dict.fromkeys(n for names in parts for n in names)}
    return (_with(model, {key: tensor for name in names for key, tensor in drawn[name].items()}) for names in parts)


def _drawn(model: nn.Module, layers: Iterable[str], seed: int, norms: str) -> dict[int, Tensor]:
    """Return the new tensors of layers, by the identity of those whose places they take."""
    seeded(seed)
    if norms not in NORMS:
        raise InputError(f"norms is {norms!r}; allowed are {', '.join(NORMS)}.")
    modules = dict(model.named_modules())
    found: dict[int, Tensor] = {}
    for name in layers:
        module = modules.get(name)
        if isinstance(module, LEARNED_NORMS):
            found |= _fresh_norm(module) if norms == "reset" else {}
            continue
        weight = None if module is None else module._parameters.get("weight")  # no parametrized one, which is computed
        if weight is None or weight.dim() < 2:
            raise InputError(f"the layer {name!r} has no weight to draw; allowed are linear layers and convolutions.")
        generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        fresh = nn.init.xavier_uniform_(torch.empty(weight.shape, dtype=torch.float32), generator=generator)
        found[id(weight)] = nn.Parameter(fresh.to(weight), weight.requires_grad)
        bias = modules[name]._parameters.get("bias")
        if bias is not None:
            found[id(bias)] = nn.Parameter(torch.zeros_like(bias), bias.requires_grad)
    return found


def _fresh_norm(norm: nn.Module) -> dict[int, Tensor]:
    """Return what a batch norm has that was never trained."""
    ones = {"weight", "running_var"}
    found: dict[int, Tensor] = {}
    for name, tensor in (*norm._parameters.items(), *norm._buffers.items()):
        if tensor is not None:
            fresh = torch.ones_like(tensor) if name in ones else torch.zeros_like(tensor)
            found[id(tensor)] = nn.Parameter(fresh, tensor.requires_grad) if name in norm._parameters else fresh
    return found


def _with(model: nn.Module, replaced: dict[int, Tensor]) -> nn.Module:
    """Return a network with some tensors in the places of others; all else it shares with the model."""
    memo: dict[int, Any] = {id(t): t for t in (*model.parameters(), *model.buffers())}
    return copy.deepcopy(model, memo | replaced)


def shuffled_weights(model: nn.Module, seed: int = 0) -> nn.Module:
    """Return a copy of a model in which the entries of each weight of a convolution have changed places at random.

    It has the same numbers and none of their structure: what a measure still finds in it does not come from what the
    layers have learned of each other.

    Parameters
    ----------
    model : nn.Module
    seed : int, default 0

    Returns
    -------
    nn.Module

    Examples
    --------
    >>> net = nn.Sequential(nn.Conv2d(3, 4, 3))
    >>> shuffled = shuffled_weights(net)
    >>> torch.equal(shuffled[0].weight.sort().values, net[0].weight.sort().values)
    False
    >>> torch.equal(shuffled[0].weight.flatten().sort().values, net[0].weight.flatten().sort().values)
    True
    """
    generator = seeded(seed)
    shuffled = copy.deepcopy(model)
    for module in shuffled.modules():
        if isinstance(module, nn.modules.conv._ConvNd):
            flat = module.weight.data.flatten()
            order = torch.randperm(len(flat), generator=generator).to(flat.device)
            module.weight.data = flat[order].reshape(module.weight.shape)
    return shuffled
