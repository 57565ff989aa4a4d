"""The rows of the ledger: every claim with its provenance and its predictions."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from modbp.claims.predictions import Claim, about, at_least, at_most
from modbp.errors import InputError

PAPERS: Mapping[str, str] = MappingProxyType(
    {
        "Sixt 2020": "Sixt, Granz and Landgraf, When Explanations Lie: Why Many Modified BP Attributions Fail",
        "Nie 2018": "Nie, Zhang and Patel, A Theoretical Explanation for Perplexing Behaviors of"
        " Backpropagation-based Visualizations",
        "Zheng 2025": "Zheng, Sang and Xu, Unifying Perplexing Behaviors in Modified BP Attributions through"
        " Alignment Perspective",
    }
)
"""The three papers, by the key that claims use."""

HIGH_PASS = "high-pass correlation with the image, {}"
CLASSES = "cosine between the maps of different classes, {}"
TRAINING = "high-pass correlation, trained minus random, guided_backprop"
ALIGNED = "median |cos| at conv1_1 from the logits, {}"
ALIGNED_DEEP = "median |cos| at conv5_3 from the logits, {}"
LOWER_STARTS = "steps to a lower start from which it aligns better, {}"
PER_POSITION = "median |cos| at conv1_1, per position minus whole map, {}"
RANKED = "rank correlation of beta with the {}"
RESIDUAL = "median |cos| at the bottom of the residual MLP, {}"
RESNET = "median |cos| at the bottom of ResNet-50, {}"
RATIO_ABOVE_SIX = "share of layers with a ratio of singular values above 6, {}"
MULTIPLIERS = "median |cos| of the multipliers at conv1_1, {}"
REVEAL_CANCEL_IN_RANDOM = "median |cos| after 14 random layers of width {}"
"""Quantities, with a place for the method's name or another detail."""

_SIXT = (
    Claim(
        "S1",
        "Sixt 2020",
        "abstract (claim), ours (proof)",
        "Products of z+ matrices converge to rank 1.",
        "mean of 1 − |cos|: positive factors below 1e-12 by 6 factors, α2β1 below 1e-8 by 8; signed factors not within"
        " 16 (about as many as the width are needed)",
        {
            "mean of 1 − |cos| after 6 factors, positive": at_most(1e-12),
            "mean of 1 − |cos| after 8 factors, α2β1": at_most(1e-8),
            "median of 1 − |cos| after 15 factors, signed": at_least(0.5),
        },
    ),
    Claim(
        "S2",
        "Sixt 2020",
        "ours",
        "The conditions visible in the paper's appendix are not enough for rank 1.",
        "powers of an explicit 3 × 3 matrix keep rank 2; the columns of a 2 × 2 keep cosine 0.894",
        {
            "second singular value over the first, 3 × 3, power 60": about(1 / 3, 1e-6),
            "cosine of the columns that survive, 3 × 3, power 60": about(0.8, 1e-6),
            "cosine of the columns, 2 × 2, power 60": about(2 / 5**0.5, 1e-6),
            "coefficient of the normalized product, 3 × 3, power 60": about(1 / 3, 1e-6),
            "coefficient of the normalized product, 2 × 2, power 60": about(1 / 3, 1e-6),
        },
    ),
    Claim(
        "S3",
        "Sixt 2020",
        "ours",
        "The bias-free z+ matrix is column-stochastic, so that Dobrushin's coefficient bounds"
        " the collapse, whose limit is c·1ᵀ.",
        "column sums 1 to rounding; the bound never violated; layer by layer it is loose, by blocks of layers it bites",
        {
            "largest deviation of a column's sum from 1": at_most(1e-12),
            "largest difference between the engine's matrices and the formula's": at_most(1e-9),
            "violations of the bounds": about(0, 0),
            "decades from the coefficient to the bound from single layers, 10 layers of width 64": at_least(3),
            "bound from blocks of two layers, 10 layers of width 64": at_most(0.1),
            "largest distance of a column from c, over its bound": at_most(1),
            "largest distance of a column over its sum from c, bias kept, over its bound": at_most(1),
            "largest map of a start vector of zero sum, over its bound": at_most(1),
        },
    ),
    Claim(
        "S4",
        "Sixt 2020",
        "abstract, notes",
        "Random relevance injected at the logits aligns on its way down for every"
        " modified rule but LRP-z and DeepLIFT.",
        "a median of at least 0.99 at conv1_1 for every rule but LRP-z, DeepLIFT and α5β4; gradient 0.62, LRP-z 0.88"
        " (one measurement of ours on three photographs)",
        {
            **{
                ALIGNED.format(method): at_least(0.99)
                for method in (
                    *("lrp_zplus", "lrp_alpha2_beta1", "deep_taylor", "excitation_bp", "guided_backprop"),
                    *("deconvolution", "rectgrad", "pattern_net", "pattern_attribution"),
                )
            },
            ALIGNED.format("gradient"): about(0.62, 0.10),
            ALIGNED.format("lrp_z"): about(0.88, 0.07),
        },
    ),
    Claim(
        "S5",
        "Sixt 2020",
        "notes",
        "α5β4 converges less on VGG16.",
        "0.48 at conv5_3, 0.80 at conv1_1 (one measurement of ours on three photographs)",
        {
            ALIGNED_DEEP.format("lrp_alpha5_beta4"): about(0.48, 0.10),
            ALIGNED.format("lrp_alpha5_beta4"): about(0.80, 0.10),
        },
    ),
    Claim(
        "S6",
        "Sixt 2020",
        "ours",
        "Starting lower in the network converges less.",
        "fewer factors, lower cosine: from start to start downwards 1 − median grows",
        {LOWER_STARTS.format(m): at_most(0.0) for m in ("lrp_zplus", "guided_backprop")},
    ),
    Claim(
        "S7",
        "Sixt 2020",
        "notes",
        "Composites converge per location, not over the whole map.",
        "per-position above whole-map cosine",
        {PER_POSITION.format(m): at_least(0.0) for m in ("epsilon_plus", "epsilon_alpha2_beta1")},
    ),
    Claim(
        "S8",
        "Sixt 2020",
        "ours",
        "A signed rule still converges while its entries' spread is below mean × √width.",
        "boundary at α = 9.5 for independent matrices of width 512; inside a ReLU network at 5.6, and at 3.0 for width"
        " 128; below it the median of 1 − |cos| falls by t per factor, above it hardly",
        {
            **{
                f"late rate of the median over t, {factors}, width 512": about(1, 0.15)
                for factors in ("α2β1", "α5β4", "40 % of the signs flipped")
            },
            "median of 1 − |cos| after 12 factors, α14β13, width 512": at_least(0.5),
            "median of 1 − |cos| after 12 factors, half of the signs flipped, width 512": at_least(0.5),
            "α at which the median of 1 − |cos| is 1/2 after 64 factors, width 512": about(9.5, 0.5),
            **{
                f"late rate of the median over t, ReLU network, {rule}": about(1, 0.25)
                for rule in ("α1β0, width 256", "α2β1, width 256", "α2β1, width 1024", "α5β4, width 1024")
            },
            "α at which a map of zero sum keeps its size, ReLU network, width 512": about(5.6, 0.3),
            "α at which a map of zero sum keeps its size, ReLU network, width 128": about(3.0, 0.2),
        },
    ),
    Claim(
        "S9",
        "Sixt 2020",
        "code, ours",
        "Clipping relevance at residual additions makes signed rules converge.",
        "α5β4 from 0.26 to 0.997 in a residual MLP of eight blocks (one measurement of ours)",
        {
            RESIDUAL.format("α5β4 without the clip"): about(0.26, 0.15),
            RESIDUAL.format("α5β4 with the clip"): at_least(0.99),
            RESIDUAL.format("α10β9 without the clip"): about(0.41, 0.15),
            RESIDUAL.format("α10β9 with the clip"): about(0.94, 0.05),
            RESNET.format("α5β4 with the clip"): at_least(0.99),
            RESNET.format("α5β4 without the clip"): at_most(0.95),
        },
    ),
    Claim(
        "S10",
        "Sixt 2020",
        "notes",
        "PatternAttribution's matrices have a ratio of singular values above 6.",
        "ratio above 6 in almost all layers, with the overlap of consecutive singular vectors beside it",
        {
            RATIO_ABOVE_SIX.format("pattern times weight"): at_least(0.9),
            RATIO_ABOVE_SIX.format("weight"): at_most(0.5),
            ALIGNED.format("pattern_attribution"): at_least(0.99),
        },
    ),
    Claim(
        "S11",
        "Sixt 2020",
        "abstract (claim), ours (algebra)",
        "DeepLIFT does not converge.",
        "Rescale, the signed chain, clearly below 0.99; RevealCancel open: the abstract says that it does not converge,"
        " our algebra that it aligns slowly in wide random networks",
        {
            ALIGNED.format("deeplift_rescale"): at_most(0.95),
            ALIGNED.format("deeplift_reveal_cancel"): at_most(0.95),
            MULTIPLIERS.format("deeplift_rescale"): at_most(0.95),
            MULTIPLIERS.format("deeplift_reveal_cancel"): at_most(0.95),
            REVEAL_CANCEL_IN_RANDOM.format(128): about(0.978, 0.02),
            REVEAL_CANCEL_IN_RANDOM.format(512): about(0.937, 0.04),
            REVEAL_CANCEL_IN_RANDOM.format(1024): about(0.877, 0.06),
        },
    ),
    Claim(
        "S12",
        "Sixt 2020",
        "abstract",
        "DeepLIFT with its two chains decoupled converges.",
        "at least 0.99, in both readings of the ablation",
        {ALIGNED.format(m): at_least(0.99) for m in ("deeplift_ablation_text", "deeplift_ablation_code")},
    ),
    Claim(
        "S13",
        "Sixt 2020",
        "abstract",
        "The maps of converging rules hardly change with the class.",
        "SSIM near 1 against clearly lower",
    ),
    Claim(
        "S14",
        "Sixt 2020",
        "abstract",
        "Under cascading parameter randomization the maps of converging rules hardly change until the early layers.",
        "two groups of methods",
    ),
    Claim(
        "S15",
        "Sixt 2020",
        "abstract",
        "The same order holds on a small network trained end to end and on a residual network.",
        "the same groups",
    ),
    Claim(
        "S16",
        "Sixt 2020",
        "abstract",
        "Negative relevance keeps class information, at the price of noise.",
        "α-β at conv1_1: 1/0 1.000, 2/1 1.000, 5/4 0.80; with β the cosine falls, maps of classes part, noise grows",
        {
            ALIGNED.format("α1β0"): at_least(0.99),
            ALIGNED.format("α2β1"): at_least(0.99),
            ALIGNED.format("α5β4"): about(0.80, 0.10),
            RANKED.format("median |cos| at conv1_1"): at_most(-0.9),
            RANKED.format("cosine between the maps of classes"): at_most(-0.9),
            RANKED.format("share of noise in the map"): at_least(0.9),
        },
    ),
)
_NIE = (
    Claim(
        "N1",
        "Nie 2018",
        "notes, code",
        "Gradient, Deconvolution and Guided Backprop differ only in the mask at each ReLU.",
        "one backward template with three masks gives all three maps, to rounding",
        {"largest relative difference": at_most(1e-5)},
    ),
    Claim(
        "N2",
        "Nie 2018",
        "abstract (claim), ours (law)",
        "Guided Backprop recovers the image in a random three-layer network, for every logit.",
        "cosine √(SNR/(1+SNR)): 0.592, 0.827, 0.947 for 16, 64, 256 filters",
    ),
    Claim(
        "N3", "Nie 2018", "abstract, notes", "In that network the gradient is noise.", "absolute correlation below 0.04"
    ),
    Claim(
        "N4",
        "Nie 2018",
        "ours",
        "Without pooling, Deconvolution does not depend on the image at all.",
        "difference exactly 0",
    ),
    Claim(
        "N5", "Nie 2018", "notes", "Max-pooling rescues Deconvolution only.", "high-pass correlation from 0 to 0.4–0.8"
    ),
    Claim(
        "N6",
        "Nie 2018",
        "abstract, notes",
        "Local connections are a cause: a fully connected network needs far more units.",
        "cosine 0.09, 0.19, 0.38, 0.61 for 1,000 to 70,000 units",
    ),
    Claim(
        "N7", "Nie 2018", "notes", "The number of filters needed grows as p/ε².", "error (π²p − 1)/N for a lone patch"
    ),
    Claim(
        "N8",
        "Nie 2018",
        "notes, ours",
        "Depth hardly changes recovery, but makes maps of a backward ReLU insensitive to the class.",
        "cosine between classes 0.318, 0.494, 0.605, 0.681 with depth",
    ),
    Claim(
        "N9",
        "Nie 2018",
        "abstract",
        "In trained networks Guided Backprop and Deconvolution recover the image in part,"
        " hardly depending on the class.",
        "high-pass correlation at the input 0.58, 0.55, 0.29, −0.01 for Guided Backprop, Deconvolution, RectGrad and"
        " the gradient (one measurement of ours on three photographs); Guided Backprop below that of a random network;"
        " maps of different classes with cosine at least 0.9, where the gradient's have none",
        {
            HIGH_PASS.format("guided_backprop"): about(0.58, 0.10),
            HIGH_PASS.format("deconvolution"): about(0.55, 0.10),
            HIGH_PASS.format("rectgrad"): about(0.29, 0.10),
            HIGH_PASS.format("gradient"): about(-0.01, 0.05),
            TRAINING: at_most(0.0),
            CLASSES.format("guided_backprop"): at_least(0.90),
            CLASSES.format("deconvolution"): at_least(0.90),
            CLASSES.format("gradient"): at_most(0.30),
        },
    ),
    Claim(
        "N10",
        "Nie 2018",
        "notes, code",
        "Recovery follows the first layers.",
        "the map approaches the trained one once the first layers are loaded",
    ),
    Claim(
        "N11",
        "Nie 2018",
        "notes",
        "An adversarial change of class moves the gradient and not Guided Backprop or Deconvolution.",
        "an order, not invariance",
    ),
    Claim(
        "N12",
        "Nie 2018",
        "ours (definition)",
        "The maps of different classes are far apart for the gradient and close for Guided Backprop.",
        "unit-norm distance √2 against far below",
    ),
)
_ZHENG = (
    Claim(
        "Z1",
        "Zheng 2025",
        "abstract",
        "Guided Backprop, RectGrad, LRP and Deep Taylor are one negative filtering rule.",
        "equal to rounding",
    ),
    Claim(
        "Z2", "Zheng 2025", "ours", "Filtering never lowers alignment with non-negative activations.", "0 violations"
    ),
    Claim(
        "Z3",
        "Zheng 2025",
        "abstract (statement), ours (law)",
        "One hidden layer with random weights aligns with its input.",
        "cosine (1 + K(n−1)/m)^(−1/2) with K = π², π, 2",
    ),
    Claim(
        "Z4",
        "Zheng 2025",
        "ours",
        "For a random convolution the map is the locally normalized image.",
        "0.592, 0.827, 0.947, 0.986 for 16, 64, 256, 1024 filters",
    ),
    Claim(
        "Z5",
        "Zheng 2025",
        "abstract (statement), ours (identity)",
        "Orthogonal weights of equal norm pass alignment on.",
        "equal to 1e-14; 0 violations of the bound",
    ),
    Claim("Z6", "Zheng 2025", "ours", "Without the filter alignment decays, with it it settles.", "settles at 0.724"),
    Claim(
        "Z7",
        "Zheng 2025",
        "ours",
        "The curve of cascading randomization can be predicted for Guided Backprop.",
        "within 0.03",
    ),
    Claim(
        "Z8",
        "Zheng 2025",
        "abstract",
        "Randomizing high layers does not disturb alignment below.",
        "Guided Backprop stays, the gradient does not",
    ),
    Claim(
        "Z9",
        "Zheng 2025",
        "ours",
        "Four predicted behaviors: the negated class, random positive signals, RectGrad's peak, biases and width.",
        "as derived, each number stated first",
    ),
    Claim(
        "Z10",
        "Zheng 2025",
        "abstract (term), ours (measure)",
        "Trained active weights point more towards their input than random ones.",
        "above √(2/(πn))",
    ),
    Claim(
        "Z11",
        "Zheng 2025",
        "abstract",
        "Layer by layer, the arriving signal aligns with the activation.",
        "a profile per rule",
    ),
    Claim(
        "Z12",
        "Zheng 2025",
        "ours (definition)",
        "How far the picked-out information drives the decision.",
        "two operationalizations, each with a control of the wrong class",
    ),
    Claim(
        "Z13",
        "Zheng 2025",
        "abstract (topic)",
        "What an aligned map shows when the decision is wrong or triggered.",
        "share of the map inside the trigger, against the share of area",
    ),
)

LEDGER: Mapping[str, Claim] = MappingProxyType({claim.id: claim for claim in (*_SIXT, *_NIE, *_ZHENG)})
"""Every claim, by id."""


def find(claim_id: str) -> Claim:
    """Return a row of the ledger.

    Parameters
    ----------
    claim_id : str

    Returns
    -------
    Claim

    Raises
    ------
    InputError
        If there is no such claim.

    Examples
    --------
    >>> find("N9").paper
    'Nie 2018'
    """
    if claim_id not in LEDGER:
        raise InputError(f"the claim {claim_id!r} is unknown; allowed are {', '.join(LEDGER)}.")
    return LEDGER[claim_id]
