"""Claims of Zheng, Sang and Xu (2025), and ours on their subject."""

from modbp.claims.predictions import Claim, about, at_least, at_most
from modbp.claims.quantities import (
    ARRIVING,
    BELOW_RANDOM,
    BEST_SHARE,
    BIASED,
    FOLLOWED,
    FORM,
    HIGH_LAYERS,
    INPUT_SIZES,
    KEPT,
    LIKE_OWN,
    NEGATED,
    ONE_CONVOLUTION,
    ONE_LAYER,
    OTHER_WEIGHTS,
    PASSED_ON,
    POSITIVE_START,
    PREDICTED_CURVE,
    PROFILE,
    SETTLED,
    TOWARD_INPUT,
    TRIGGER,
    WRONG,
)

FILTERING = ("guided_backprop", "rectgrad", "lrp_zplus", "deep_taylor", "excitation_bp")
"""The methods that filter what is negative, by the abstract (Excitation Backprop by us: its rule is z⁺)."""

ZHENG = (
    Claim(
        "Z1",
        "Zheng 2025",
        "abstract (claim), ours (form)",
        "Guided Backprop, RectGrad, LRP and Deep Taylor are one negative filtering rule.",
        "each rule, written in that form, equals its own implementation to rounding; in it no signal is negative or on"
        " an inactive unit, while the gradient's is negative in part, and Deconvolution's is on inactive units",
        {
            LIKE_OWN.format("fully connected"): at_most(1e-12),
            LIKE_OWN.format("VGG16"): at_most(1e-10),
            **{FORM.format(method): about(0, 0) for method in FILTERING},
            FORM.format("gradient"): at_least(0.25),
            FORM.format("deconvolution"): at_least(0.25),
        },
    ),
    Claim(
        "Z2",
        "Zheng 2025",
        "ours",
        "Filtering never lowers alignment with non-negative activations.",
        "0 violations; noise of cosine 0 has 1/π once filtered, and √2/π once gated too",
        {
            "violations of the filtering lemma, random trials": about(0, 0),
            "violations of the filtering lemma, layers of VGG16": about(0, 0),
            "cosine of filtered noise": about(0.318, 0.01),
            "cosine of filtered and gated noise": about(0.450, 0.01),
        },
    ),
    Claim(
        "Z3",
        "Zheng 2025",
        "abstract (statement), ours (law)",
        "One hidden layer with random weights aligns with its input.",
        "cosine (1 + K(n−1)/m)^(−1/2) for m units and n inputs, with K = π² for Guided Backprop, π for constant"
        " coefficients, 2 for the activation; the gradient and Deconvolution 0 ± 1/√n",
        {
            **{
                ONE_LAYER.format(coefficient, ratio): about(value, tolerance)
                for coefficient, values in (
                    ("guided_backprop", (0.305, 0.711, 0.954)),
                    ("constant", (0.493, 0.873, 0.985)),
                    ("activation", (0.579, 0.914, 0.990)),
                    ("gradient", (0, 0, 0)),
                    ("deconvolution", (0, 0, 0)),
                )
                for ratio, value, tolerance in zip(
                    (1, 10, 100), values, (0.03, 0.02, 0.01) if any(values) else (0.1,) * 3, strict=True
                )
            },
            INPUT_SIZES.format(30): about(0.715, 0.03),
            INPUT_SIZES.format(600): about(0.709, 0.02),
            OTHER_WEIGHTS.format("uniform"): about(0.873, 0.02),
            OTHER_WEIGHTS.format("Rademacher"): about(0.873, 0.02),
            OTHER_WEIGHTS.format("isotropic Student"): about(0.855, 0.02),
        },
    ),
    Claim(
        "Z4",
        "Zheng 2025",
        "ours",
        "For a random convolution the map is the locally normalized image.",
        "cosine with the locally normalized image (1 + KC/N)^(−1/2) for N filters and C channels; with activations as"
        " coefficients the image itself",
        {
            ONE_CONVOLUTION.format("normalized", "guided_backprop", 16): about(0.592, 0.06),
            ONE_CONVOLUTION.format("normalized", "guided_backprop", 64): about(0.827, 0.03),
            ONE_CONVOLUTION.format("normalized", "guided_backprop", 256): about(0.947, 0.015),
            ONE_CONVOLUTION.format("normalized", "guided_backprop", 1024): about(0.986, 0.008),
            ONE_CONVOLUTION.format("normalized", "constant", 256): about(0.982, 0.015),
            ONE_CONVOLUTION.format("raw", "activation", 1024): about(0.997, 0.01),
            ONE_CONVOLUTION.format("normalized", "gradient", 1024): about(0, 0.04),
            ONE_CONVOLUTION.format("normalized", "deconvolution", 1024): about(0, 0.04),
        },
    ),
    Claim(
        "Z5",
        "Zheng 2025",
        "abstract (statement), ours (identity)",
        "Orthogonal weights of equal norm pass alignment on.",
        "cos(r, a) = η cos(g, a⁺) to rounding for orthogonal active weights of equal norm; for all others a lower"
        " bound; from the activation itself √(κ/2), 1 for ± pairs, and for κ units per input (1 + 2/κ)^(−1/2) with"
        " Gaussian weights, (1 + 1/κ)^(−1/2) with tight frames",
        {
            "largest error of the identity, orthogonal weights": at_most(1e-14),
            "violations of the lower bound, Gaussian weights": about(0, 0),
            "violations of the lower bound, weights of VGG16": about(0, 0),
            PASSED_ON.format("orthogonal, κ = 1"): about(0.707, 0.03),
            PASSED_ON.format("orthogonal, κ = 1/2"): about(0.5, 0.03),
            PASSED_ON.format("± pairs, κ = 2"): about(1, 1e-9),
            PASSED_ON.format("Gaussian, κ = 1"): about(0.577, 0.03),
            PASSED_ON.format("Gaussian, κ = 10"): about(0.913, 0.02),
            PASSED_ON.format("tight frame, κ = 2"): about(0.816, 0.03),
            PASSED_ON.format("tight frame, κ = 10"): about(0.953, 0.02),
        },
    ),
    Claim(
        "Z6",
        "Zheng 2025",
        "ours",
        "Without the filter alignment decays, with it it settles.",
        "with the filter at 0.634, 0.724, 0.823 for 1/2, 1 and 2 units per unit below; without it, from perfect"
        " alignment, 1/√(1 + k) after k layers of equal width",
        {
            SETTLED.format("eight", "with the filter", "1/2"): about(0.634, 0.04),
            SETTLED.format("eight", "with the filter", "1"): about(0.724, 0.03),
            SETTLED.format("eight", "with the filter", "2"): about(0.823, 0.03),
            SETTLED.format("nine", "without the filter", "1"): about(0.316, 0.03),
            SETTLED.format("four", "without the filter", "2"): about(0.718, 0.03),
        },
    ),
    Claim(
        "Z7",
        "Zheng 2025",
        "ours",
        "The curve of cascading randomization can be predicted for Guided Backprop.",
        "the recursion within 0.03 of simulated networks of eight layers, for randomization from the top, for two"
        " logits, and for a logit and its negative",
        {
            PREDICTED_CURVE.format("randomized from the top"): at_most(0.03),
            PREDICTED_CURVE.format("two logits"): at_most(0.03),
            PREDICTED_CURVE.format("a logit and its negative"): at_most(0.03),
        },
    ),
    Claim(
        "Z8",
        "Zheng 2025",
        "abstract (statement), ours (numbers)",
        "Randomizing high layers does not disturb alignment below.",
        "with the upper half of VGG16 random, the maps of the four named rules stay near those of the trained network,"
        " and their signals below as aligned as before; the gradient's map does not stay",
        {
            **{
                HIGH_LAYERS.format(method): at_least(0.80)
                for method in ("guided_backprop", "rectgrad", "lrp_zplus", "deep_taylor")
            },
            HIGH_LAYERS.format("gradient"): at_most(0.30),
            BELOW_RANDOM.format("guided_backprop"): about(0, 0.10),
            BELOW_RANDOM.format("rectgrad"): about(0, 0.10),
            BELOW_RANDOM.format("lrp_zplus"): about(0, 0.10),
        },
    ),
    Claim(
        "Z9",
        "Zheng 2025",
        "ours",
        "Five predicted behaviors: the negated class, random positive signals, RectGrad's peak, biases and width.",
        "in one layer of ten units per input: 0.503 between the maps of a logit and its negative, 0.763 between those"
        " of a logit and of a random positive signal; RectGrad best with 16.9 % of the units kept (near 26 % deep"
        " down), at a gain below 0.01; biases of deviation 1 and 4 lower a cosine of 0.873 to 0.785 and 0.399; a wider"
        " first layer raises alignment, as the recursion says",
        {
            NEGATED.format("one layer"): about(0.503, 0.04),
            NEGATED.format("random VGG16"): at_least(0.90),
            NEGATED.format("trained VGG16"): at_least(0.50),
            "cosine with the input, map of the negated logit, one layer": about(0.711, 0.03),
            POSITIVE_START.format("one layer"): about(0.763, 0.04),
            POSITIVE_START.format("trained VGG16"): at_least(0.80),
            BEST_SHARE.format("one layer"): about(0.169, 0.06),
            BEST_SHARE.format("deep network"): about(0.26, 0.08),
            "gain in cosine of RectGrad at its best over Guided Backprop, one layer": about(0.008, 0.01),
            BIASED.format(1): about(0.785, 0.02),
            BIASED.format(4): about(0.399, 0.04),
            PREDICTED_CURVE.format("width of the first layer"): at_most(0.03),
        },
    ),
    Claim(
        "Z10",
        "Zheng 2025",
        "abstract (term), ours (measure)",
        "Trained active weights point more towards their input than random ones.",
        "mean cosine of active weights with their input above √(2/(πn)) in every layer of VGG16 with trained weights,"
        " and equal to it with random ones",
        {
            "share of trained layers above the isotropic value": at_least(1.0),
            TOWARD_INPUT.format("trained"): at_least(1.0),
            TOWARD_INPUT.format("random"): about(1, 0.10),
        },
    ),
    Claim(
        "Z11",
        "Zheng 2025",
        "abstract (topic), ours (numbers)",
        "Layer by layer, the arriving signal aligns with the activation.",
        "Guided Backprop's signal behind the ReLU in random VGG16 near the 0.72 of the recursion, in trained VGG16"
        " above the √2/π of filtered noise; the arriving signal of the gradient at 0, and of Deconvolution at 0 with"
        " random weights, where isotropic theory holds, and above 0.2 with trained ones, where it does not",
        {
            PROFILE.format("guided_backprop", "random"): about(0.72, 0.15),
            PROFILE.format("guided_backprop", "trained"): at_least(0.45),
            ARRIVING.format("gradient", "random"): about(0, 0.10),
            ARRIVING.format("gradient", "trained"): about(0, 0.10),
            ARRIVING.format("deconvolution", "random"): about(0, 0.10),
            ARRIVING.format("deconvolution", "trained"): at_least(0.20),
        },
    ),
    Claim(
        "Z12",
        "Zheng 2025",
        "abstract (topic), ours (definitions)",
        "How far the picked-out information drives the decision.",
        "with the signal in the place of the activation, every rule keeps the decision that it explains, so that this"
        " alone distinguishes nothing; asked for a wrong class, the gradient and Deconvolution make the network decide"
        " for it, and z⁺ does not (a small network of ours: 0.9, 1.0, 0.0); with a fifth of the pixels every rule keeps"
        " more decisions than random pixels do",
        {
            KEPT.format("guided_backprop", "signal in place of the activation"): at_least(0.90),
            KEPT.format("gradient", "signal in place of the activation"): at_least(0.90),
            FOLLOWED.format("gradient", "signal in place of the input"): at_least(0.80),
            FOLLOWED.format("deconvolution", "signal in place of the input"): at_least(0.80),
            FOLLOWED.format("lrp_zplus", "signal in place of the input"): at_most(0.20),
            "share of decisions kept, a fifth of the pixels, guided_backprop minus random pixels": at_least(0.10),
            "share of decisions kept, a fifth of the pixels, gradient minus random pixels": at_least(0.10),
        },
    ),
    Claim(
        "Z13",
        "Zheng 2025",
        "abstract (topic), ours (numbers)",
        "What an aligned map shows when the decision is wrong or triggered.",
        "for rules that filter, the map of a wrong decision is that of the true class, and the share of a map inside"
        " a trigger is that of a clean classifier; for the gradient it is at least half as much again",
        {
            WRONG.format("guided_backprop"): at_least(0.90),
            WRONG.format("lrp_zplus"): at_least(0.90),
            WRONG.format("gradient"): at_most(0.50),
            TRIGGER.format("guided_backprop"): about(1, 0.25),
            TRIGGER.format("lrp_zplus"): about(1, 0.25),
            TRIGGER.format("gradient"): at_least(1.5),
        },
    ),
)
