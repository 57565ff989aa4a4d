"""Claims of Sixt, Granz and Landgraf (2020), and ours on their subject."""

from modbp.claims.predictions import Claim, about, at_least, at_most
from modbp.claims.quantities import (
    ALIGNED,
    ALIGNED_DEEP,
    CONV4_RANDOM,
    DENSE_RANDOM,
    LOWER_STARTS,
    MULTIPLIERS,
    NOISE_FLOOR,
    OTHER_CLASS,
    PARTED,
    PER_POSITION,
    RANKED,
    RATIO_ABOVE_SIX,
    RECURSION,
    RESIDUAL,
    RESNET,
    REVEAL_CANCEL_IN_RANDOM,
)

CONVERGING = (
    *("deconvolution", "guided_backprop", "rectgrad", "lrp_zplus", "lrp_alpha2_beta1", "deep_taylor", "excitation_bp"),
    *("pattern_net", "pattern_attribution"),
)
"""The rules that the paper finds to converge on VGG16, by its abstract and second-hand notes."""

NOT_CONVERGING = ("gradient", "lrp_z", "deeplift_rescale", "deeplift_reveal_cancel")
"""The exceptions of the abstract, and the gradient. α5β4 converges less, by the notes, and is in neither group."""

SIXT = (
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
        "SSIM near 1 against clearly lower (second hand: 0.4 to 0.8 in the paper's convention); noise passes, and edges"
        " fail",
        {
            **{OTHER_CLASS.format(method): at_least(0.9) for method in CONVERGING},
            **{OTHER_CLASS.format(method): at_most(0.8) for method in NOT_CONVERGING},
            OTHER_CLASS.format("noise"): at_most(0.1),
            OTHER_CLASS.format("edges"): at_least(0.999),
            NOISE_FLOOR.format(1): about(0.009, 0.01),
            NOISE_FLOOR.format(2): about(0.045, 0.02),
            **{
                PARTED.format(f"random logit, {how}"): at_least(0.95) for how in ("SSIM", "SSIM of range 2", "Spearman")
            },
        },
    ),
    Claim(
        "S14",
        "Sixt 2020",
        "abstract",
        "Under cascading parameter randomization the maps of converging rules hardly change until the early layers.",
        "two groups of methods: SSIM of at least 0.9 with the dense layers random and 0.8 with conv4_1 and all above"
        " it, against at most 0.5; Guided Backprop follows the recursion of the alignment theory",
        {
            **{DENSE_RANDOM.format(method): at_least(0.9) for method in CONVERGING},
            **{DENSE_RANDOM.format(method): at_most(0.5) for method in NOT_CONVERGING},
            **{CONV4_RANDOM.format(method): at_least(0.8) for method in CONVERGING},
            **{CONV4_RANDOM.format(method): at_most(0.5) for method in NOT_CONVERGING},
            DENSE_RANDOM.format("noise"): at_most(0.1),
            DENSE_RANDOM.format("edges"): at_least(0.999),
            **{PARTED.format(f"dense layers random, {how}"): at_least(0.95) for how in ("SSIM", "Spearman")},
            **{PARTED.format(f"conv4_1 and above random, {how}"): at_least(0.95) for how in ("SSIM", "Spearman")},
            RECURSION.format("guided_backprop"): at_most(0.2),
        },
    ),
    Claim(
        "S15",
        "Sixt 2020",
        "abstract",
        "The same order holds on a small network trained end to end and on a residual network.",
        "the same groups, for another class and for random upper layers",
        {
            PARTED.format(f"{test}, {network}"): at_least(0.9)
            for network in ("small CNN", "ResNet-50", "EfficientNet-Lite0")
            for test in ("another class", "upper half random")
        },
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
