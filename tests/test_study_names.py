"""Names are never identities: whatever a user calls things, no two of them become one."""

from __future__ import annotations

import unicodedata
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from coin_ray.data.dataset import DataSet, DataSpec
from coin_ray.errors import UserError
from coin_ray.pipeline.settings import Cell
from coin_ray.study.cells import Level, make_cells
from coin_ray.study.command_line import Request
from coin_ray.study.datasets import with_data
from coin_ray.study.names import MOST_BYTES, data_name_problem, file_word, safe_names
from coin_ray.study.resolved import ResolvedStudy
from coin_ray.study.study import resolve
from coin_ray.tracking.records import name as mlflow_name

HOSTILE = [
    *("weak 1", "weak-1", "weak_1", "Weak 1", "weak  1", "weak 1 ", "weak 1\n", "weak,1", "weak.1"),
    *(
        "a:b",
        "a>b",
        "a/b",
        "a\\b",
        "a|b",
        "a_b",
        "..",
        ".",
        "../../../x",
        "/etc",
        "",
        " ",
        "-",
        "~",
    ),
    *(
        "é",
        "e\u0301",
        "É",
        "ß",
        "ss",
        "Å",
        "\u212b",
        "ﬁ",
        "fi",
        "细胞",
        "λ 0.1",
        "I",
        "ı",
        "x" * 400,
    ),
    *("x" * 399 + "y", "con", "NUL", "a\x00b", "\x1b[31m", "\ud800", "=1+1", "$HOME", "%s", "{0}"),
    "a-b-" + "0" * 24,
]
"""Labels that differ, if only by what some file system or database overlooks."""
LABELS = st.lists(
    st.one_of(st.sampled_from(HOSTILE), st.text("aA-_ .:/é\u0301", max_size=6), st.text()),
    min_size=2,
    max_size=12,
    unique=True,
)


def overlooked(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def are_apart_and_safe(names: list[str], count: int) -> None:
    assert len({overlooked(name) for name in names}) == count
    for name in names:
        assert 0 < len(name.encode()) <= MOST_BYTES
        assert "/" not in name and "\\" not in name and name not in (".", "..")
        assert name == name.strip() and name.isprintable() and not name.startswith("-")


@settings(deadline=None, max_examples=60)
@given(LABELS, st.integers(0, 10**40))
def test_every_cell_has_a_folder_and_a_job_of_its_own(labels: list[str], seed: int) -> None:
    levels = [Level(label, {}, Cell()) for label in labels]
    cells = make_cells(levels, [DataSpec("a", "folder"), DataSpec("a b", "folder")], [0, seed + 1])
    names = [cell.key_label for cell in cells]
    are_apart_and_safe(names, 4 * len(labels))
    assert all(name.isascii() for name in names)
    # A name does not depend on what else is in the study.
    assert make_cells(levels[:1], [cells[0].data], [0])[0].key_label == names[0]


def test_the_configuration_is_part_of_a_cells_name() -> None:
    configs = [Cell(), Cell.model_validate({"ot": {"lambda": 0.7}})]
    faster = Cell.model_validate({"sam": {"batch": 7}})
    specs = [DataSpec("a", "folder")]
    one, other, same = (
        make_cells([Level("x", {}, config)], specs, [0])[0].key_label
        for config in (*configs, faster)
    )
    assert one != other and one == same
    assert one.startswith("x--a--s0-")


@settings(deadline=None, max_examples=60)
@given(LABELS)
def test_every_label_has_a_metric_of_its_own(labels: list[str]) -> None:
    names = safe_names(labels)
    assert list(names) == labels
    are_apart_and_safe(list(names.values()), len(labels))
    metrics = [f"{name}/aji_delta" for name in names.values()]
    assert list(map(mlflow_name, metrics)) == metrics  # MLflow takes them as they are


def test_plain_labels_stay_as_they_are() -> None:
    labels = ["mae", "0.1", "fixed 0.5", "MoNuSeg-test", "my_tiles", "λ 0.1"]
    assert list(safe_names(labels).values()) == labels


@settings(deadline=None, max_examples=60)
@given(LABELS)
def test_mlflow_keeps_any_keys_apart(keys: list[str]) -> None:
    names = list(map(mlflow_name, keys))
    assert len(set(names)) == len(keys)
    assert all(0 < len(name) <= 250 for name in names)


@settings(deadline=None, max_examples=60)
@given(st.sets(st.sampled_from([t for t in HOSTILE if not data_name_problem(t)]), min_size=1))
def test_data_sets_draw_into_files_of_their_own(names: set[str]) -> None:
    by_case = {overlooked(name): name for name in names}  # more are refused when a study is read
    are_apart_and_safe([file_word(name) for name in by_case.values()], len(by_case))


def test_eighteen_hundred_cells_have_as_many_folders() -> None:
    words = [f"a label that is as long as people write them, number {i}" for i in range(60)]
    labels = [f"{one}, {other}" for one in words for other in words[:30]]
    cells = make_cells([Level(x, {}, Cell()) for x in labels], [DataSpec("d", "folder")], [0])
    assert len({cell.key_label for cell in cells}) == 1800


STUDY = """
study: small
extends: mini
factors:
  backbone:
    baseline: weak 1
    levels:
      weak 1: {uss.family: none}
      weak-1: {uss.family: mae}
"""


def study(folder: Path, text: str = STUDY, **options: object) -> ResolvedStudy:
    (folder / "s.yaml").write_text(text)
    return resolve(str(folder / "s.yaml"), Request(**options))  # type: ignore[arg-type]


class Content(DataSet):
    """Stands for images that are not read: a data set of this content."""

    def digest(self) -> str:
        return str(self.train[0])


def held(given: ResolvedStudy, content: str = "c") -> ResolvedStudy:
    return with_data(given, {spec.name: Content((content,), ()) for spec in given.data})


def test_a_folder_is_of_one_study_on_one_content_with_one_set_of_overrides(tmp_path: Path) -> None:
    plain = study(tmp_path)
    with pytest.raises(ValueError, match="have not been read"):
        plain.run_name  # noqa: B018
    name = held(plain).run_name
    assert name.startswith("small-mini-generated-") and held(plain).run_name == name
    others = [
        held(plain, "other images"),
        held(study(tmp_path, settings=("student.iterations=9",))),
        held(study(tmp_path, settings=("student.iterations=8",))),
        held(replace(plain, profile="coin")),
        held(replace(plain, name="small_")),
        held(study(tmp_path, data=(f"generated={tmp_path}",))),
        held(study(tmp_path, data=(f"generated={tmp_path}",), mpp=0.5)),
    ]
    names = [name, *(other.run_name for other in others)]
    # A folder called as the generated tiles, of the same content, is the same data.
    assert len({overlooked(n) for n in names}) == len(names) - 1
    assert max(map(len, names)) <= MOST_BYTES
    assert held(study(tmp_path, settings=("sam.batch=3",))).run_name == name  # speed alone
    assert held(study(tmp_path, seeds="5")).run_name == name


BAD_NAMES = ["x/../../../escaped", "..", "a\\\\b", "", " a", "a\\tb", "é" * 51]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_a_data_set_is_no_path(tmp_path: Path, name: str) -> None:
    with pytest.raises(UserError, match="cannot name a data set"):
        study(tmp_path, STUDY + f'data: {{"{name}": {{path: .}}}}\n')
    with pytest.raises(UserError, match="cannot name a data set"):
        study(tmp_path, data=(f"{name.encode().decode('unicode_escape')}={tmp_path}",))


def test_of_two_names_both_places_are_said(tmp_path: Path) -> None:
    for text, said in [
        ("data: {Site: {path: .}, site: {path: .}}\n", "differs from 'Site' in case alone"),
        ("data: [generated, generated]\n", "is listed twice"),
    ]:
        with pytest.raises(UserError, match=said) as error:
            study(tmp_path, STUDY + text)
        assert "the other one is in line 10" in str(error.value)
    with pytest.raises(UserError, match="two data sets are called 'x'") as error:
        study(tmp_path, data=(f"X={tmp_path}", f"x={tmp_path}"))
    assert f"the other: --data X={tmp_path}" in str(error.value)
    twins = (
        "study: s\nextends: mini\nfactors:\n"
        "  A: {baseline: a, levels: {a: {}, same: {ot.lambda: 0.3}}}\n"
        "  B: {baseline: b, levels: {b: {}, same: {ot.prior: 0.3}}}\n"
        "  C: {baseline: c, levels: {c: {}, 'A=same': {select.value: 0.3}}}\n"
    )
    with pytest.raises(UserError, match="two combinations of levels are called 'A=same'") as error:
        study(tmp_path, twins)
    assert "rename a level: the other is A same, B b, C c, of" in str(error.value)
