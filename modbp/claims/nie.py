"""Claims of Nie, Zhang and Patel (2018), and ours on their subject."""

from modbp.claims.predictions import Claim, about, at_least, at_most
from modbp.claims.quantities import (
    ARC_COSINE,
    CLASS_DISTANCE,
    CLASSES,
    FULLY_CONNECTED,
    HIGH_PASS,
    LOADED,
    MOVED,
    MOVED_LESS,
    NORMALIZED,
    NORMALIZED_CENTERED,
    POOLED,
    RANDOM_CLASSES,
    RANDOM_HIGH_PASS,
    RAW_RATIO,
    TRAINING,
    WHITE,
)

NIE = (
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
        "cosine with the locally normalized image √(SNR/(1+SNR)), SNR = N/(π²C); with channel means removed"
        " √(SNR/(SNR+1−1/2π)); cosine with the image itself up to the ceiling that the normalized image has; cosine of"
        " two logits' maps (SNR+1/π)/(SNR+1)",
        {
            NORMALIZED.format(16): about(0.592, 0.06),
            NORMALIZED.format(64): about(0.827, 0.03),
            NORMALIZED.format(256): about(0.947, 0.015),
            NORMALIZED.format(1024): about(0.986, 0.008),
            NORMALIZED.format(4096): about(0.996, 0.004),
            NORMALIZED_CENTERED.format(64): about(0.848, 0.03),
            NORMALIZED_CENTERED.format(256): about(0.955, 0.015),
            "cosine with the image over its ceiling, 4096 filters": about(1, 0.02),
            "cosine of the maps of two logits, 256 filters": about(0.929, 0.03),
        },
    ),
    Claim(
        "N3",
        "Nie 2018",
        "abstract, notes",
        "In that network the gradient is noise.",
        "variance N·K/2 at a pixel under K patches, no excess kurtosis and no autocorrelation from 256 filters on,"
        " absolute correlation with the image at most 0.04",
        {
            "variance of the gradient over its law, 256 filters": about(1, 0.08),
            "excess kurtosis of the gradient, 256 filters": about(0, 0.2),
            "autocorrelation of neighboring pixels, gradient, 256 filters": about(0, 0.03),
            "largest |correlation| of the gradient with the image": at_most(0.04),
        },
    ),
    Claim(
        "N4",
        "Nie 2018",
        "ours",
        "Without pooling, Deconvolution does not depend on the image at all.",
        "difference of the maps of two photographs exactly 0; a constant per channel carries 1/π of the power",
        {
            "largest difference between two photographs' maps, three layers": about(0, 0),
            "largest difference between two photographs' maps, five layers": about(0, 0),
            "share of power in the channels' constants": about(0.318, 0.06),
        },
    ),
    Claim(
        "N5",
        "Nie 2018",
        "notes",
        "Max-pooling rescues Deconvolution only.",
        "with 256 filters of 7 × 7 and windows of 9 × 9, Deconvolution's high-pass correlation from 0 to 0.4–0.8, the"
        " gradient's stays 0, Guided Backprop's about as it was; on white images the law with its ghosts",
        {
            POOLED.format("without pooling", "deconvolution"): about(0, 0.05),
            POOLED.format("with max-pooling", "deconvolution"): about(0.6, 0.2),
            POOLED.format("with max-pooling", "gradient"): about(0, 0.05),
            POOLED.format("change by max-pooling", "guided_backprop"): about(0, 0.15),
            POOLED.format("with average-pooling", "deconvolution"): about(0, 0.05),
            WHITE.format("2", "deconvolution"): about(0.840, 0.02),
            WHITE.format("4", "deconvolution"): about(0.843, 0.02),
            WHITE.format("8", "deconvolution"): about(0.732, 0.03),
        },
    ),
    Claim(
        "N6",
        "Nie 2018",
        "abstract, notes",
        "Local connections are a cause: a fully connected network needs far more units.",
        "cosine (1+π²(d−1)/units)^(−1/2) for d = 12,288: 0.090, 0.199, 0.376, 0.605; 64 filters 0.827",
        {
            FULLY_CONNECTED.format("1000"): about(0.090, 0.02),
            FULLY_CONNECTED.format("5000"): about(0.199, 0.02),
            FULLY_CONNECTED.format("20,000"): about(0.376, 0.02),
            FULLY_CONNECTED.format("70,000"): about(0.605, 0.02),
            "cosine of 64 filters minus that of 70,000 units": at_least(0.15),
        },
    ),
    Claim(
        "N7",
        "Nie 2018",
        "notes (rate), ours (constants)",
        "The number of filters needed grows as p/ε².",
        "squared relative error (π²p − 1)/N for a lone patch, π²C/N with overlap",
        {
            **{f"squared error over (π²p − 1)/N, lone patch of {p}": about(1, 0.06) for p in (9, 27, 75, 147)},
            "slope of log squared error over log N": about(-1, 0.05),
            "squared error over π²C/N, overlapping patches": about(1, 0.15),
        },
    ),
    Claim(
        "N8",
        "Nie 2018",
        "notes (first half), ours",
        "Depth hardly changes recovery, but makes maps of a backward ReLU insensitive to the class.",
        "random VGG16: Guided Backprop's correlation with the image the same from one block to five, while the cosine"
        " between classes grows (one measurement of ours: Guided Backprop 0.89 to 1.00, Deconvolution 0.52 to 0.86, the"
        " gradient 0); fully connected Deconvolution follows the recursion 0.318, 0.494, 0.605, 0.681 …",
        {
            "correlation with the image, five blocks minus one, guided_backprop": about(0, 0.10),
            RANDOM_HIGH_PASS.format("five blocks", "max", "guided_backprop"): about(0.65, 0.10),
            RANDOM_HIGH_PASS.format("five blocks", "max", "deconvolution"): about(0.22, 0.10),
            RANDOM_HIGH_PASS.format("five blocks", "average", "deconvolution"): about(0, 0.05),
            RANDOM_HIGH_PASS.format("five blocks", "max", "gradient"): about(0, 0.05),
            RANDOM_CLASSES.format("one block", "guided_backprop"): about(0.89, 0.08),
            RANDOM_CLASSES.format("five blocks", "guided_backprop"): at_least(0.98),
            RANDOM_CLASSES.format("one block", "deconvolution"): about(0.52, 0.15),
            RANDOM_CLASSES.format("five blocks", "deconvolution"): about(0.86, 0.08),
            RANDOM_CLASSES.format("five blocks", "gradient"): about(0, 0.05),
            ARC_COSINE.format(1): about(0.318, 0.05),
            ARC_COSINE.format(2): about(0.494, 0.05),
            ARC_COSINE.format(4): about(0.681, 0.05),
            ARC_COSINE.format(8): about(0.834, 0.05),
        },
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
        "Guided Backprop's map approaches the trained one once the first layers are loaded; one random layer hurts most"
        " as the first and hardly as the last; with a random first layer the others hardly matter; the gradient needs"
        " all layers (a small network of ours: 0.95 with half of the layers, 0.5 with the first one random)",
        {
            LOADED.format("the first half loaded", "guided_backprop"): at_least(0.80),
            LOADED.format("all but the last loaded", "guided_backprop"): at_least(0.95),
            LOADED.format("all but the last loaded", "gradient"): at_most(0.30),
            LOADED.format("all but the first loaded", "guided_backprop"): about(0.50, 0.20),
            "cosine, all but the first loaded, minus the lowest with another one random, guided_backprop": at_most(0.0),
            "cosine, most minus least over what is loaded above a random first layer, guided_backprop": at_most(0.20),
        },
    ),
    Claim(
        "N11",
        "Nie 2018",
        "notes",
        "An adversarial change of class moves the gradient and not Guided Backprop or Deconvolution.",
        "an order, not invariance: Guided Backprop's map moves less than the gradient's, and most of what it moves,"
        " sign noise of the same size moves too (a small network of ours: half to four fifths)",
        {
            MOVED_LESS.format("guided_backprop"): at_least(0.30),
            MOVED_LESS.format("deconvolution"): at_least(0.0),
            MOVED.format("guided_backprop"): at_most(0.20),
            MOVED.format("deconvolution"): at_most(0.20),
            "distance under sign noise over distance under PGD, guided_backprop": about(0.65, 0.20),
        },
    ),
    Claim(
        "N12",
        "Nie 2018",
        "ours (definition)",
        "The maps of different classes are far apart for the gradient and close for Guided Backprop.",
        "unit-norm distance √2 for the gradient, as of independent maps; far below for Guided Backprop and"
        " Deconvolution",
        {
            CLASS_DISTANCE.format("gradient"): about(2**0.5, 0.10),
            CLASS_DISTANCE.format("guided_backprop"): at_most(0.40),
            CLASS_DISTANCE.format("deconvolution"): at_most(0.40),
            RAW_RATIO: at_least(1.0),
        },
    ),
)
