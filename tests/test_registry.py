"""Names to policies: built-in, entry points, modules, files, and what is said when nothing matches."""

from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from kvsim import registry
from kvsim.errors import InputError, nearest
from kvsim.policies.contiguous import ContiguousPolicy
from kvsim.policy import Policy, Pool
from kvsim.registry import make_policy, policies, policy_class, register, split_policies

MINE = """
from kvsim.policies.contiguous import ContiguousPolicy

class Mine(ContiguousPolicy):
    name = "mine"

class Nameless(ContiguousPolicy):
    name = ""

thing = 3
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a module with policies that nobody registered, importable as `my_policies`."""
    path = tmp_path / "my_policies.py"
    path.write_text(MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "my_policies", raising=False)
    return path


@pytest.fixture
def own_table(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a test register without leaving a trace."""
    monkeypatch.setattr(registry, "_policies", dict(policies()))


def test_a_built_in_policy_is_found_by_its_name() -> None:
    assert policies()["contiguous"] is policy_class("contiguous") is ContiguousPolicy


@pytest.mark.usefixtures("own_table")
def test_a_registered_class_is_known_and_comes_back_unchanged() -> None:
    class Another(ContiguousPolicy):
        name = "another"

    assert register(Another) is Another
    assert policies()["another"] is Another


@pytest.mark.usefixtures("own_table")
def test_a_taken_name_is_refused_and_keeps_its_owner() -> None:
    class Usurper(ContiguousPolicy):
        name = "contiguous"

    with pytest.raises(ValueError, match=r"'contiguous' is taken by kvsim\.policies\.contiguous\.Contig"):
        register(Usurper)

    assert policies()["contiguous"] is ContiguousPolicy


def test_settings_are_parsed_and_defaults_fill_what_is_left() -> None:
    policy = make_policy(
        "contiguous:placement=buddy:block-size=32", {"placement": "best-fit", "reservation": "pow2", "x": 1}
    )

    assert policy.parameters() == {"reservation": "pow2", "placement": "buddy", "block_size": 32}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("3", 3),
        ("-3", -3),
        ("0.25", 0.25),
        ("1e9", 1e9),
        ("true", True),
        ("False", False),
        ("none", None),
        ("buddy", "buddy"),
        ("", ""),
    ],
)
def test_a_setting_becomes_the_value_it_reads_as(
    text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: dict[str, object] = {}
    monkeypatch.setattr(ContiguousPolicy, "__init__", lambda self, *, placement="x": seen.update(p=placement))

    make_policy(f"contiguous:placement={text}")

    assert seen == {"p": value}
    assert type(seen["p"]) is type(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("contigous", r"unknown policy 'contigous' \(did you mean 'contiguous'\?\); known: .*contiguous"),
        ("zzz", r"unknown policy 'zzz'; known: "),
        ("contiguous:place=buddy", r"no parameter 'place' \(did you mean 'placement'\?\); it takes reserv"),
        ("contiguous:zzz=1", "no parameter 'zzz'; it takes reservation, placement, block_size"),
        ("contiguous:placement=buddy:oops", "got 'buddy:oops'"),
        ("contiguous:placement=worst-fit", "placement must be one of first-fit, best-fit, buddy"),
        ("contiguous:block_size=none", "block_size must be int, got None"),
        ("no_such_module:Mine", "policy module 'no_such_module' cannot be imported"),
        ("no/such/file.py:Mine", "policy file 'no/such/file.py' does not exist"),
        ("kvsim.policy:Pool", "not a subclass of kvsim.Policy"),
        ("kvsim.policies.contiguous:ContiguousPolcy", "did you mean 'ContiguousPolicy'"),
    ],
)
def test_what_cannot_be_a_policy_is_one_clear_line(text: str, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        make_policy(text)

    assert "\n" not in str(caught.value)


def test_a_class_in_a_module_needs_no_registration(mine: Path) -> None:
    policy = make_policy(f"{mine.stem}:Mine:placement=buddy")

    assert (policy.name, policy.parameters()["placement"]) == ("mine", "buddy")
    assert "mine" not in policies()


def test_a_class_in_a_file_needs_no_package(mine: Path) -> None:
    policy = make_policy(f"{mine}:Mine:reservation=max")

    policy.reset(Pool.of_tokens(100))

    assert policy.capacity == 100
    assert type(policy).__module__.startswith("kvsim_user_my_policies")


@pytest.mark.parametrize(
    ("attribute", "message"),
    [
        ("Nameless", "has no `name`"),
        ("thing", "is 3, which is not a subclass of kvsim.Policy"),
        ("Mien", r"has no 'Mien' \(did you mean 'Mine'"),
    ],
)
def test_a_file_without_such_a_policy_is_an_error(mine: Path, attribute: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        policy_class(f"{mine}:{attribute}")


def test_a_file_that_fails_on_import_says_how(tmp_path: Path) -> None:
    path = tmp_path / "broken.py"
    path.write_text("import kvsim\n1 / 0\n")

    with pytest.raises(InputError, match=r"broken\.py' fails on import: ZeroDivisionError"):
        policy_class(f"{path}:Mine")


def test_an_installed_entry_point_is_a_policy(mine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("theirs", f"{mine.stem}:Mine", "kvsim.policies")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points if group == "kvsim.policies" else [])

    assert policies()["theirs"].name == "mine"
    assert make_policy("theirs:placement=buddy").parameters()["placement"] == "buddy"


def test_an_entry_point_that_is_no_policy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    points = [EntryPoint("theirs", "json:dumps", "kvsim.policies")]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)

    with pytest.raises(InputError, match=r"'entry point theirs' is .*not a subclass"):
        policies()


def test_the_nearest_names_are_offered_or_nothing() -> None:
    assert nearest("buddi", ["buddy", "first-fit"]) == " (did you mean 'buddy'?)"
    assert nearest("zzz", ["buddy", "first-fit"]) == ""


def test_every_policy_class_is_a_policy() -> None:
    assert all(issubclass(cls, Policy) for cls in policies().values())


def test_a_file_that_registers_its_policy_can_be_named_twice(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(
        "import kvsim\nfrom kvsim.policies.paged import PagedPolicy\n\n\n"
        "@kvsim.register\nclass Mine(PagedPolicy):\n    name = 'mine-twice'\n"
    )

    first, second = (make_policy(f"{path}:Mine:block_size=8") for _ in range(2))

    assert type(first) is type(second)


def test_a_parameter_may_hold_colons_and_commas() -> None:
    groups = '[{"type":"full"},{"type":"swa","window":64}]'

    names = split_policies(f"paged,sliding-window:kv_groups={groups}:block_size=8")

    assert names == ["paged", f"sliding-window:kv_groups={groups}:block_size=8"]
    assert make_policy(names[1]).parameters()["kv_groups"] == groups


def test_a_parameter_without_a_value_is_told_so() -> None:
    with pytest.raises(InputError, match="needs a value, as in paged:block_size="):
        make_policy("paged:block_size")


def test_a_class_that_lacks_methods_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "lacking.py"
    path.write_text("import kvsim\n\n\nclass Lacking(kvsim.Policy):\n    name = 'lacking'\n")

    with pytest.raises(InputError, match="does not implement admit, grow, release, reset, usage"):
        make_policy(f"{path}:Lacking")
