"""Facts of the public traces hold when they are read."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from kvsim.traces import Trace, read_trace, write_trace

SHARED = Path(__file__).resolve().parents[2] / "shared"
pytestmark = [
    pytest.mark.shared,
    pytest.mark.skipif(not SHARED.is_dir(), reason="the folder ../shared with public traces is not there"),
]


def lengths(trace: Trace) -> list[tuple[int, int]]:
    return list(zip(trace.prompt_tokens.tolist(), trace.output_tokens.tolist(), strict=True))


@pytest.mark.parametrize(
    ("name", "rows", "means", "medians", "most"),
    [
        ("conv", 19366, (1154.70, 211.13), (1020, 129), (14050, 1000)),
        ("code", 8819, (2047.85, 27.88), (1469, 13), (7437, 1899)),
    ],
)
def test_azure_2023_has_the_published_moments(
    name: str, rows: int, means: tuple[float, float], medians: tuple[int, int], most: tuple[int, int]
) -> None:
    trace = read_trace(SHARED / f"traces/azure2023/AzureLLMInferenceTrace_{name}.csv")

    columns = (trace.prompt_tokens, trace.output_tokens)
    assert len(trace) == rows
    assert tuple(round(float(column.mean()), 2) for column in columns) == means
    assert tuple(int(np.median(column)) for column in columns) == medians
    assert tuple(int(column.max()) for column in columns) == most


@pytest.mark.parametrize("name", ["conv", "code"])
def test_vidurs_splitwise_files_are_azure_row_for_row(name: str) -> None:
    azure = read_trace(SHARED / f"traces/azure2023/AzureLLMInferenceTrace_{name}.csv")
    vidur = read_trace(SHARED / f"traces/vidur/splitwise_{name}.csv")

    assert lengths(azure) == lengths(vidur)
    assert np.allclose(azure.arrival, vidur.arrival, rtol=0, atol=1e-6)


def test_mooncake_conversation_has_the_published_counts() -> None:
    trace = read_trace(SHARED / "traces/mooncake/conversation_trace.jsonl")

    assert trace.block_ids is not None
    assert len(trace) == 12031
    assert (trace.prompt_tokens.sum(), trace.output_tokens.sum()) == (144_793_823, 4_122_048)
    assert (len(trace.block_ids), len(np.unique(trace.block_ids))) == (288_500, 182_790)


def test_all_oracle_traces_load_and_are_in_row_order() -> None:
    sizes = {"tiny": 4, "aligned": 16, "shared_prefix": 16, "medium_mix": 64}
    files = sorted((SHARED / "oracle/traces").glob("*.jsonl.gz"))

    traces = {
        f.name.split(".")[0]: read_trace(f, hash_block_tokens=sizes.get(f.name.split(".")[0], 512))
        for f in files
    }

    assert len(traces) == 12
    assert all(trace.notes == () for trace in traces.values())
    assert {name for name, trace in traces.items() if trace.block_tokens == 1} == {"multiturn"}
    assert traces["tiny"].ids(0).tolist() == [1, 2, 3, 4, 5]


def test_kv_cache_tester_sessions_are_6037_requests_that_share_nothing_across_files() -> None:
    folder = SHARED / "traces/kv-cache-tester"
    trace = read_trace(folder, rate=0.1)

    assert trace.session is not None
    assert trace.parent is not None
    assert trace.block_ids is not None
    assert trace.block_offsets is not None
    assert len(trace) == 6037
    assert np.count_nonzero(trace.parent < 0) == len(np.unique(trace.session)) == 90
    child = np.flatnonzero(trace.parent >= 0)
    assert np.all(trace.session[child] == trace.session[trace.parent[child]])
    owner = np.repeat(trace.session, np.diff(trace.block_offsets))
    last_owner = np.empty(trace.block_ids.max() + 1, np.int64)
    last_owner[trace.block_ids] = owner
    assert np.array_equal(last_owner[trace.block_ids], owner)


@pytest.mark.parametrize(
    ("path", "rows"),
    [
        ("etalon/sharegpt_8k_filtered_stats_llama2_tokenizer.csv", 30731),
        ("vidur/arxiv_summarization_stats_llama2_tokenizer_filtered_v2.csv", 28257),
        ("llmservingsim/sharegpt-llama-3.1-8b-300-sps10.hash16.jsonl", 300),
        ("llmservingsim/vllm_RTXPRO6000_Llama-3.1-8B/requests.jsonl", 300),
    ],
)
def test_other_public_traces_have_their_rows(path: str, rows: int) -> None:
    assert len(read_trace(SHARED / "traces" / path)) == rows


def test_a_mooncake_trace_survives_our_own_formats(tmp_path: Path) -> None:
    trace = read_trace(SHARED / "traces/mooncake/conversation_trace.jsonl").take(np.arange(500))
    write_trace(trace, tmp_path / "t.parquet")
    write_trace(trace, tmp_path / "t.jsonl.gz")

    assert read_trace(tmp_path / "t.parquet").sha256() == trace.sha256()
    assert read_trace(tmp_path / "t.jsonl.gz", hash_block_tokens=512).sha256() == trace.sha256()


def test_servegen_day_has_the_request_counts_of_its_windows() -> None:
    trace = read_trace(SHARED / "traces/servegen/reason_deepseek-r1.tar.gz")

    assert len(trace) == 1_383_669
    assert trace.arrival[-1] <= 86_400
