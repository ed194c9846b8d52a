"""The run configuration: from TOML, from flags, and what policies and pools make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from kvsim.config import RunConfig, read_config
from kvsim.errors import InputError
from kvsim.policies.paged import PagedPolicy
from kvsim.policies.prefix import PrefixPolicy
from kvsim.run import prepare_limits, prepare_policy, prepare_pool
from kvsim.traces.generate import generate


def test_toml_keys_are_flag_names(tmp_path: Path) -> None:
    path = tmp_path / "run.toml"
    path.write_text('model = "mistral-7b-v0.1"\nmax-num-seqs = 8\nwatermark = 0.01\n')

    config = read_config(path)

    assert (config.model, config.max_num_seqs, config.watermark) == ("mistral-7b-v0.1", 8, 0.01)


@pytest.mark.parametrize(
    ("text", "said"),
    [("max-num-seq = 8", "did you mean 'max_num_seqs'"), ("= 3", "not TOML"), (b"\xff\xfe", "not TOML")],
)
def test_bad_toml_is_one_clear_error(tmp_path: Path, text: str | bytes, said: str) -> None:
    path = tmp_path / "run.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())

    with pytest.raises(InputError, match=said):
        read_config(path)


def test_settings_become_defaults_of_policies_that_have_them() -> None:
    config = RunConfig(block_size=32, watermark=0.02)

    policy = prepare_policy("paged:watermark=0.05", config)

    assert isinstance(policy, PagedPolicy)
    assert (policy.block_size, policy.watermark) == (32, 0.05)


def test_a_policy_object_is_cloned() -> None:
    policy = PrefixPolicy(block_size=4)

    assert prepare_policy(policy, RunConfig()).parameters() == policy.parameters()
    assert prepare_policy(policy, RunConfig()) is not policy


@pytest.mark.parametrize(("name", "caching"), [("paged", True), ("contiguous", True), ("prefix", False)])
def test_prefix_caching_that_contradicts_the_policy_is_refused(name: str, caching: bool) -> None:
    with pytest.raises(InputError, match="contradicts policy"):
        prepare_policy(name, RunConfig(enable_prefix_caching=caching))


def test_only_oracles_learn_the_true_length() -> None:
    trace = generate("alpaca", 10, rate=1.0)
    config = RunConfig()

    plain = prepare_pool(trace, prepare_policy("contiguous", config), config)
    oracle = prepare_pool(trace, prepare_policy("contiguous:reservation=oracle", config), config)

    assert plain.true_tokens is None
    assert oracle.true_tokens is not None


def test_the_models_own_limit_is_the_default_length() -> None:
    assert prepare_limits(RunConfig(model="llama-2-7b")).max_model_len == 4096
    assert prepare_limits(RunConfig(model="llama-2-7b", max_model_len=100)).max_model_len == 100


def test_weights_of_unknown_quantisation_can_be_given() -> None:
    trace = generate("alpaca", 10, rate=1.0)
    light, heavy = (RunConfig(weight_bytes=size * 2**30) for size in (4, 15))

    pools = [prepare_pool(trace, PagedPolicy(), config).kv_bytes for config in (light, heavy)]

    assert pools[0] - pools[1] == 11 * 2**30
