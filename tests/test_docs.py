"""The site as it is built: no warning, no network, every link and name in its place."""

import collections
import doctest
import html.parser
import inspect
import os
import pathlib
import subprocess
import sys
import urllib.parse

import numpy as np
import pytest
import scipy.integrate
from scipy.special import softmax
from scipy.stats import entropy, norm

import kl_jax
import kl_jax.interop

ROOT = pathlib.Path(__file__).resolve().parent.parent
pytestmark = pytest.mark.docs


class Page(html.parser.HTMLParser):
    """The ids of a page, what it links to, what it loads, and its text."""

    def __init__(self, path):
        super().__init__()
        self.ids, self.links, self.loads = collections.Counter(), [], []
        self.source = path.read_text()
        self.feed(self.source)

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        self.ids[attributes.get("id")] += 1
        if tag == "a" and "href" in attributes:
            self.links.append(attributes["href"])
        elif tag == "link" and attributes.get("rel") not in ("canonical", "prev", "next"):
            self.loads.append(attributes["href"])
        elif tag in ("img", "script") and "src" in attributes:
            self.loads.append(attributes["src"])


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The pages, by their path. A proxy that is not there stands for no network."""
    pytest.importorskip("material", reason="needs the extra `docs`")
    folder = tmp_path_factory.mktemp("site")
    proxies = dict.fromkeys(
        ("http_proxy", "https_proxy", "all_proxy"), "http://127.0.0.1:9"
    )
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--site-dir", folder],
        cwd=ROOT,
        env={**os.environ, **proxies, "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return {path.relative_to(folder): Page(path) for path in folder.rglob("*.html")}, folder


def test_links_lead_somewhere_and_nothing_is_loaded_from_elsewhere(site):
    pages, folder = site
    assert len(pages) > 30
    for path, page in pages.items():
        for target in page.links + page.loads:
            url = urllib.parse.urlsplit(target)
            if url.scheme == "https" and target in page.links:
                continue  # not looked at: the tests need no network
            assert not url.scheme, f"{path}: {target}"
            if path.name == "404.html":
                continue  # its links are those of the root of a server
            to = (folder / path.parent / urllib.parse.unquote(url.path)).resolve()
            to = folder / path if not url.path else to
            assert to.is_file(), f"{path}: {target}"
            if url.fragment and to.suffix == ".html":
                ids = pages[to.relative_to(folder)].ids
                assert urllib.parse.unquote(url.fragment) in ids, f"{path}: {target}"


def public():
    """Each public function or class: where it is defined, and where it is imported from."""
    for module in (kl_jax, kl_jax.parametric, kl_jax.parametric.cross, kl_jax.interop):
        for name, value in vars(module).items():
            if not (inspect.isfunction(value) or inspect.isclass(value)):
                continue
            imported = hasattr(module, "__path__") and value.__module__.startswith(
                "kl_jax."
            )
            if name in getattr(module, "__all__", [name]) and (
                imported or value.__module__ == module.__name__
            ):
                yield name, {f"{x}.{name}" for x in (value.__module__, module.__name__)}


def test_every_public_name_is_documented_once(site):
    pages, _ = site
    ids = collections.Counter()
    for page in pages.values():
        ids.update(page.ids)
    found = dict(public())
    assert len(found) > 90
    missing = [name for name, paths in found.items() if sum(ids[x] for x in paths) != 1]
    assert not missing, "not once on docs/api: name the module there, with ::: in front"
    helpers = {f"kl_jax.parametric.{x}" for x in ("domain", "location_scale.normals")}
    assert not helpers & set(ids)


def test_docstrings_have_their_sections(site):
    pages, _ = site
    source = pages[pathlib.Path("api/divergences.html")].source
    for section in ("Boundary", "Gradient", "Error", "Source", "Returns"):
        assert source.count(f'class="doc-section-title">{section}:') >= 7
    assert "&gt;&gt;&gt; import jax" not in source  # highlighted, not quoted
    assert "<blockquote>" not in source
    rulers = pages[pathlib.Path("api/torch.html")].source
    assert "<p>====" not in rulers


def test_formulas_need_no_script(site):
    pages, _ = site
    for page in pages.values():
        assert "arithmatex" not in page.source
    for name in (
        "how_it_works",
        "notebooks/100_distillation",
        "notebooks/300_rl_kl_penalty",
    ):
        assert "<math" in pages[pathlib.Path(f"{name}.html")].source


def test_the_loss_with_a_mask_is_one_click_from_the_front_page(site):
    pages, _ = site
    front = pages[pathlib.Path("index.html")]
    assert "recipes/distillation.html" in front.links
    text = "".join(pages[pathlib.Path("recipes/distillation.html")].source.split("<span"))
    assert "padding mask" in text
    assert "tempered" in text


def test_the_search_is_there_without_a_server(site):
    _, folder = site
    index = (folder / "search" / "search_index.js").read_text()
    assert "padding mask" in index
    assert "topk_outcomes" in index


def numbers_of_readme(teacher, student, keep, **_):
    rows = entropy(softmax(teacher, -1), softmax(student, -1), axis=-1)
    yield "[" + " ".join(f"{x:.4f}" for x in rows) + "]"
    rows = entropy(softmax(teacher / 2, -1), softmax(student / 2, -1), axis=-1)
    yield f"{4 * rows[keep].mean():.4f} True"


def numbers_of_drift(march, april, empty, **_):
    yield f"{entropy(march, april) + entropy(april, march):.4f}"
    yield f"inf {entropy(march + 0.5, empty + 0.5):.4f}"


def numbers_of_latent_variables(mu, log_variance, **_):
    rows = (mu**2 + np.exp(log_variance) - 1 - log_variance) / 2
    yield f"{rows.sum(-1).mean():.4f}"
    yield f"{np.maximum(rows.mean(0), 0.02).sum():.4g}"

    def integrand(z):
        prior = np.log((norm.pdf(z, -2) + norm.pdf(z, 2)) / 2)
        return norm.pdf(z, 1.5, 0.5) * (norm.logpdf(z, 1.5, 0.5) - prior)

    yield f"{scipy.integrate.quad(integrand, -8, 8)[0]:.3f}"


def numbers_of_reinforcement(log_policy, log_reference, mask, **_):
    d = log_reference - log_policy
    yield f"{(np.exp(d) - 1 - d)[mask].mean():.4f}"


def numbers_of_teachers(a, b, **_):
    yield f"{a} {entropy(softmax(a), softmax(b)):.4f}"


@pytest.mark.parametrize(
    ("page", "numbers"),
    [
        ("README.md", numbers_of_readme),
        ("docs/recipes/drift.md", numbers_of_drift),
        ("docs/recipes/latent_variables.md", numbers_of_latent_variables),
        ("docs/recipes/reinforcement.md", numbers_of_reinforcement),
        ("docs/recipes/teachers.md", numbers_of_teachers),
    ],
)
def test_printed_numbers_by_numpy_and_scipy(page, numbers):
    """In float64, of the arrays that the page has."""
    text = (ROOT / page).read_text()
    run = doctest.DocTestParser().get_doctest(text, {}, page, page, 0)
    doctest.DocTestRunner().run(run, out=lambda _: None, clear_globs=False)
    arrays = {k: np.asarray(x) for k, x in run.globs.items() if hasattr(x, "dtype")}
    arrays = {k: x.astype("f8") if x.dtype == "f4" else x for k, x in arrays.items()}
    for number in numbers(**arrays):
        assert f"\n{number}\n" in text
