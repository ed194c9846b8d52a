"""Published memory arithmetic: papers, start-up logs and worked examples, as `published.toml` lists them."""

from __future__ import annotations

import pytest
from published import assert_as_documented, rows_at

from kvsim.capacity import capacity_of, reservation_waste
from kvsim.gpu import GIB
from kvsim.memory import activation_peak
from kvsim.validate_table import Check
from kvsim.zoo import find_model

ROWS = rows_at("kvsim.validate_memory")


@pytest.mark.parametrize("check", ROWS.values(), ids=ROWS)
def test_arithmetic_gives_what_was_published(check: Check) -> None:
    assert_as_documented(check)


def test_all_of_the_arithmetic_is_there() -> None:
    assert len(ROWS) > 100
    assert {check.kind for check in ROWS.values()} == {"E", "T"}


def test_llama_2_7b_at_2048_tokens_is_exactly_one_gib() -> None:
    assert capacity_of(find_model("llama-2-7b"), GIB, max_model_len=2048).request_bytes == GIB


def test_a_2048_token_reservation_that_uses_51_wastes_97_and_a_half_percent() -> None:
    assert reservation_waste(51, 2048) == pytest.approx(0.975, abs=0.0005)


def test_larger_steps_need_more_memory_for_activations() -> None:
    model = find_model("llama-3.1-8b")

    assert activation_peak(model, 20_000) < activation_peak(model, 29_000)
