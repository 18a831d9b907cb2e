"""What is exported, how it is documented, and which module may import which."""

import ast
import importlib.metadata
import inspect
import pathlib
import re

import cross_grid
import pytest
import registry

import kl_jax

PACKAGE = pathlib.Path(kl_jax.__file__).parent
PUBLIC = sorted({*kl_jax.__all__, "sum"} - {"parametric"})


def test_public_names():
    found = {n for n, x in vars(kl_jax).items() if not inspect.ismodule(x) and n[0] != "_"}
    assert found == set(PUBLIC)
    assert found == {*KINDS, "Weighted"}
    assert kl_jax.__version__ == importlib.metadata.version("kl_jax")
    assert (PACKAGE / "py.typed").exists()


def test_signatures_are_the_documented_ones():
    assert (
        str(inspect.signature(kl_jax.kl_div))
        .replace("'", "")
        .startswith(
            "(input: ArrayLike, target: ArrayLike, size_average: bool | None = None, "
            "reduce: bool | None = None, reduction: Reduction = mean, "
            "log_target: bool = False)"
        )
    )
    for function in (kl_jax.kl_divergence, kl_jax.kl_divergence_from_probs):
        kinds = [p.kind.name for p in inspect.signature(function).parameters.values()]
        assert kinds == ["POSITIONAL_OR_KEYWORD"] * 2 + ["KEYWORD_ONLY"] * 3


SECTIONS = {
    "divergence": ("nats", "Returns:", "Raises:", "Boundary:", "Gradient:", "Error:"),
    "reduction": ("Returns:", "Raises:"),
    "transform": ("Args:", "Returns:"),
}
KINDS = {
    **{row.of_kl_jax.__name__: "divergence" for row in registry.DIVERGENCES.values()},
    "rel_entr": "divergence",
    "generalized_kl": "divergence",
    "jensen_shannon_distance": "divergence",
    "logits_from_probs": "divergence",
    "mixture_kl_approximation": "divergence",
    "mixture_kl_upper_bound": "divergence",
    "mixture_logits": "divergence",
    "kl_divergence_from_probs": "divergence",
    "topk_kl_divergence": "divergence",
    "topk_outcomes": "divergence",
    "linear_kl_divergence": "divergence",
    "kl_estimate": "divergence",
    "kl_from_counts": "divergence",
    "kl_from_densities": "divergence",
    "kl_from_samples": "divergence",
    "kl_div": "divergence",
    "sum": "reduction",
    "mean": "reduction",
    "batchmean": "reduction",
    "masked": "reduction",
    "weighted": "reduction",
    "reverse": "transform",
    "tempered": "transform",
    "chunked": "transform",
    "checked": "transform",
    "KLDivLoss": "transform",
}


@pytest.mark.parametrize("name", [n for n in PUBLIC if n != "Weighted"])
def test_docstring(name):
    doc = inspect.getdoc(getattr(kl_jax, name))
    wanted = SECTIONS[KINDS[name]]
    if KINDS[name] == "divergence":
        wanted += ("Source:",)
    for section in (*wanted, ">>> "):
        assert section in doc, f"{name}: no {section}"


PARAMETRIC = [
    name for name, value in vars(kl_jax.parametric).items() if inspect.isfunction(value)
]


def test_parametric_names():
    """The functions are in a table, with the parameters of one distribution in order."""
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+) \|", kl_jax.parametric.__doc__, re.M))
    assert sorted(rows) == sorted(PARAMETRIC)
    for name, row in rows.items():
        function = getattr(kl_jax.parametric, name)
        found = list(inspect.signature(function).parameters)
        of_one = row.strip().split(", ")
        if name == "normal_standard":
            assert found == of_one
        else:
            assert found == [f"{p}_{side}" for side in "pq" for p in of_one]
        assert "\n>>> " in inspect.getdoc(function)


CROSS = [
    name
    for name, value in vars(kl_jax.parametric.cross).items()
    if inspect.isfunction(value) and value.__module__ == "kl_jax.parametric.cross"
]


def test_names_of_pairs():
    """Likewise, with the parameters of p and of q; named p_q, and there is every pair."""
    table = kl_jax.parametric.cross.__doc__
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", table, re.M)
    assert [name for name, *_ in rows] == CROSS == list(cross_grid.PAIRS)
    for name, *sides in rows:
        function = getattr(kl_jax.parametric.cross, name)
        of_both = zip("pq", sides, strict=True)
        expected = [f"{x}_{side}" for side, of_one in of_both for x in of_one.split(", ")]
        assert list(inspect.signature(function).parameters) == expected
        assert "\n>>> " in inspect.getdoc(function)


# What a module may import of the others. None has a cycle, and none imports torch_compat.
OF_PUBLIC = {"_checks", "_contracts", "_keywords"}
MAY_IMPORT = {
    "_arithmetic": set(),
    "_exponentials": {"_arithmetic"},
    "_sharding": set(),
    "_reductions": {"_arithmetic"},
    "_tiles": {"_reductions", "_sharding"},
    "_passes": {"_arithmetic", "_exponentials", "_reductions", "_tiles"},
    "_blocks": {"_arithmetic", "_exponentials", "_passes", "_contracts", "_reductions"},
    "_keywords": set(),
    "_contracts": {"_arithmetic", "_keywords"},
    "_rows": {"_contracts"},
    "_functions": set(),
    "_checks": {"_arithmetic", "_contracts", "_functions"},
    "elementwise": OF_PUBLIC | {"_arithmetic", "_exponentials"},
    "_family": {
        *("_arithmetic", "_blocks", "_contracts", "_passes", "_reductions", "_tiles"),
    },
    "_fitted": {"_arithmetic", "_blocks", "_exponentials"},
    "_generators": {"_arithmetic", "_blocks", "_exponentials", "_family", "_fitted"},
    "_renyi": {
        *("_arithmetic", "_blocks", "_contracts", "_exponentials", "_family", "_fitted"),
    },
    "divergences": OF_PUBLIC
    | {"_arithmetic", "_blocks", "_family", "_generators", "_renyi"},
    "probabilities": OF_PUBLIC | {"elementwise"},
    "mixtures": OF_PUBLIC
    | {"_arithmetic", "_blocks", "_exponentials", "_passes", "_sharding", "divergences"},
    "topk": OF_PUBLIC
    | {
        "_arithmetic",
        "_blocks",
        "_exponentials",
        "_sharding",
        "divergences",
        "elementwise",
    },
    "linear": OF_PUBLIC | {"_arithmetic", "_blocks", "_passes", "_sharding"},
    "estimators": OF_PUBLIC | {"_arithmetic", "_exponentials", "elementwise"},
    "counts": OF_PUBLIC | {"_arithmetic", "_exponentials", "elementwise"},
    "densities": OF_PUBLIC | {"_arithmetic", "elementwise"},
    "parametric": OF_PUBLIC
    | {"_arithmetic", "_exponentials", "_sharding", "elementwise", "parametric"},
    "chunks": OF_PUBLIC | {"_blocks", "_functions", "_rows", "_sharding"},
    "transforms": OF_PUBLIC | {"_arithmetic", "_functions", "_rows"},
    "torch_compat": OF_PUBLIC | {"elementwise", "transforms"},
    # Nothing imports it.
    "interop": {
        *("_arithmetic", "_contracts", "_exponentials", "divergences", "elementwise"),
        *("interop", "parametric"),
    },
    "__init__": {
        *(
            "_checks",
            "chunks",
            "counts",
            "densities",
            "divergences",
            "elementwise",
            "estimators",
        ),
        *("linear", "mixtures", "parametric", "probabilities", "topk", "torch_compat"),
        "transforms",
    },
}


def imported(path):
    """Dotted names of everything a module imports, at any depth of its code."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.py")), ids=lambda p: p.stem)
def test_imports_point_one_way(path):
    names = list(imported(path))
    inside = {n.split(".")[1] for n in names if n.startswith("kl_jax.")}
    assert inside <= MAY_IMPORT[path.relative_to(PACKAGE).parts[0].removesuffix(".py")]
    outside = {n.split(".")[0] for n in names} - {"kl_jax", "__future__"}
    third_party = {n for n in outside if n in {"jax", "chex", "numpy", "optax", "flax"}}
    checks = {"_contracts": {"jax", "chex", "numpy"}, "_keywords": {"numpy"}}
    allowed = checks.get(path.stem, {"jax"})
    assert third_party <= allowed
    assert not [n for n in names if n.startswith("jax._src")]


def test_runtime_dependencies():
    needed = [
        re.split(r"[<>=!~\s\[;]", r)[0]
        for r in importlib.metadata.requires("kl_jax")
        if "extra ==" not in r
    ]
    assert sorted(needed) == ["chex", "jax"]
