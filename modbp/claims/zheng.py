"""Claims of Zheng, Sang and Xu (2025), and ours on their subject."""

from modbp.claims.predictions import Claim

ZHENG = (
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
