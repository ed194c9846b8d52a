"""Every registered policy keeps the contract, in its default and in its other settings."""

from __future__ import annotations

import json

import pytest

from kvsim.cli.policies import policies as list_policies
from kvsim.policy import Policy, Pool, parameter_defaults
from kvsim.registry import make_policy, policies
from kvsim.testing import check_policy

SETTINGS = [
    f"contiguous:reservation={reservation}:placement={placement}"
    for reservation in ("max", "oracle", "pow2")
    for placement in ("first-fit", "best-fit", "buddy")
] + [
    "paged:block_size=1",
    "paged:watermark=0.1",
    "paged:scheduler_reserve_full_isl=false",
    "paged:preemption=swap",
    "paged:preemption=swap:swap_space_gib=0.000001",
    "prefix:block_size=1",
    "prefix:block_size=3:watermark=0.05:scheduler_reserve_full_isl=false",
    "reserved:reserve=0.3",
    "reserved:reserve=0",
    "reserved:max_tokens=20:block_size=4",
    "reserved:reserve=0.5:max_tokens=40:watermark=0.1",
    "virtual:page_kib=64",
    "virtual:page_kib=512:overlap=false:deferred_reclamation=false:eager_groups=0",
    "virtual:page_kib=256:map_us=3",
    "sliding-window:window=20:block_size=4",
    "sliding-window:window=1:block_size=1",
    "sliding-window:window=12:block_size=4:sinks=4",
    "sliding-window:window=12:block_size=4:sinks=6:enable_prefix_caching=true",
    'sliding-window:block_size=4:kv_groups=[{"type":"chunked","window":26}]',
    'sliding-window:block_size=4:enable_prefix_caching=true:kv_groups=[{"type":"full"},{"type":"chunked","window":24}]',
    'sliding-window:block_size=4:enable_prefix_caching=true:kv_groups=[{"type":"chunked","window":24}]',
    "sliding-window:enable_prefix_caching=true",
    "sliding-window:enable_prefix_caching=true:prefix_cache_retention_interval=none:window=10:block_size=4",
    "sliding-window:enable_prefix_caching=true:prefix_cache_retention_interval=32:block_size=4",
]


def every_policy() -> list[type[Policy]]:
    """Return the registered classes."""
    return list(policies().values())


@pytest.mark.parametrize("cls", every_policy(), ids=policies())
@pytest.mark.parametrize("seed", range(3))
def test_every_policy_passes_the_public_checks(cls: type[Policy], seed: int) -> None:
    check_policy(cls, seed=seed)


@pytest.mark.parametrize("text", SETTINGS)
def test_every_setting_passes_the_public_checks(text: str) -> None:
    check_policy(make_policy(text), seed=7, rounds=5)


@pytest.mark.parametrize("cls", every_policy(), ids=policies())
def test_every_policy_is_documented_in_one_line(cls: type[Policy]) -> None:
    first = (cls.__doc__ or "").partition("\n")[0]

    assert 10 < len(first) <= 100
    assert first.endswith(".")


@pytest.mark.parametrize("cls", every_policy(), ids=policies())
def test_reset_sets_what_the_engine_reads(cls: type[Policy]) -> None:
    policy = cls()

    policy.reset(Pool(kv_bytes=4096 << 16, token_bytes=1 << 16, max_model_len=512))

    assert policy.capacity > 0
    assert policy.slots_per_token >= 1
    assert policy.attention
    assert isinstance(policy.refusal_holds, bool)
    assert policy.blocks_in_use == policy.usage(None).held == 0
    assert policy.transfers() == 0


def test_names_are_unique_and_classes_have_their_own() -> None:
    names = [cls.name for cls in every_policy()]

    assert names == list(policies())
    assert len(set(names)) == len(set(every_policy())) == len(names)


def test_the_list_shows_every_policy_with_its_defaults(capsys: pytest.CaptureFixture[str]) -> None:
    list_policies(json=True)
    rows = json.loads(capsys.readouterr().out)["policies"]

    assert [row["policy"] for row in rows] == list(policies())
    assert [row["parameters"] for row in rows] == [parameter_defaults(cls) for cls in every_policy()]


def test_the_list_is_written_as_the_flag_is_read(capsys: pytest.CaptureFixture[str]) -> None:
    list_policies()
    text = capsys.readouterr().out

    for cls in every_policy():
        settings = [line.strip() for line in text.partition(f"{cls.name}: ")[2].splitlines()[1:]]
        settings = settings[: len(parameter_defaults(cls))]
        assert make_policy(":".join([cls.name, *settings])).parameters() == parameter_defaults(cls)
