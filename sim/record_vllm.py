"""Record vLLM's own scheduling of a trace: `python -m kvsim.record_vllm TRACE -o DIR [flags]`.

It drives the v1 scheduler and KV cache manager of the vLLM that is installed where it runs, in virtual
time, without a model or a device, and writes a case for `kvsim verify`: manifest, trace and log. Text-only
decoder models; no speculative decoding, LoRA, multimodal input, KV connector or parallelism.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from kvsim.errors import InputError
from kvsim.manifest import CaseConfig, Row
from kvsim.record_driver import VllmDriver, vllm_version
from kvsim.record_files import (
    LogFile,
    add_case,
    check_case_name,
    config_row,
    header_row,
    read_cases,
    store_trace,
    stored_cases,
    summary_row,
)
from kvsim.record_flags import UNUSED_HASH_BLOCK_TOKENS, make_config, parser
from kvsim.record_loop import Recording
from kvsim.record_trace import TraceRow, read_rows


def record_case(
    folder: Path, name: str, trace: Path, config: CaseConfig, *, detail: bool = False, overwrite: bool = False
) -> Row:
    """Record one case into a folder's manifest and return the manifest's entry for it."""
    check_case_name(name)
    rows = read_rows(trace, config.hash_block_tokens)
    if config.hash_block_tokens is None:
        config = replace(config, hash_block_tokens=UNUSED_HASH_BLOCK_TOKENS)
    version = vllm_version()
    if name in read_cases(folder, version)["cases"] and not overwrite:
        raise InputError(f"{folder / 'manifest.json'}: has a case {name!r}; --overwrite replaces it")
    driver = VllmDriver(config, detail)
    if not driver.info["startup_check_passes"]:
        print(
            f"note: vLLM would not start: a request of max_model_len {config.max_model_len} needs "
            f"{driver.info['startup_blocks_needed']} blocks, the pool has {config.num_blocks - 1}",
            file=sys.stderr,
        )
    recording, log_sha256 = _recorded(folder / "logs" / f"{name}.jsonl.gz", driver, config, rows, detail)
    stem = trace.name.removesuffix(".gz").removesuffix(".jsonl")
    trace_name, trace_sha256 = store_trace(folder, stem, rows)
    case = {
        "trace": trace_name,
        "log": f"logs/{name}.jsonl.gz",
        "detail": detail,
        "config": config_row(config),
        "trace_sha256": trace_sha256,
        "log_sha256": log_sha256,
        "summary": summary_row(recording, driver.info),
    }
    add_case(folder, name, case, version)
    return case


def _recorded(
    path: Path, driver: VllmDriver, config: CaseConfig, rows: list[TraceRow], detail: bool
) -> tuple[Recording, str]:
    """Run a recording into a log; return it and the log's SHA-256. A run that fails leaves no log."""
    log = LogFile(path)
    recording = Recording(driver, config, rows, log.write, detail)
    try:
        log.write(header_row(driver.version, config, driver.info, len(rows)))
        recording.run()
        return recording, log.keep()
    except BaseException:
        log.discard()
        raise


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return 0 when all is recorded and 2 for wrong use."""
    given = vars(parser().parse_args(arguments))
    try:
        for name, trace, config, detail in _wanted(given):
            case = record_case(
                given["output"], name, trace, config, detail=detail, overwrite=given["overwrite"]
            )
            print(_told(name, case, given["output"]))
    except InputError as error:
        print(f"kvsim.record_vllm: {error}", file=sys.stderr)
        return 2
    return 0


def _wanted(given: Row) -> list[tuple[str, Path, CaseConfig, bool]]:
    """Return name, trace, configuration and detail of each case that the flags ask for."""
    if given["case_from"] is None:
        if given["trace"] is None:
            raise InputError("a TRACE is needed, or --case-from MANIFEST:NAME")
        stem = given["trace"].name.removesuffix(".gz").removesuffix(".jsonl")
        name = given["case"] or stem
        return [(name, given["trace"], make_config(given, None), given.get("detail", False))]
    whole = Path(given["case_from"])
    place, _, case = given["case_from"].rpartition(":")
    stored = stored_cases(whole, None) if whole.is_file() or not place else stored_cases(Path(place), case)
    if len(stored) > 1 and (given["case"] or given["trace"]):
        raise InputError("--case and TRACE go with one case; --case-from names a whole manifest")
    return [
        (
            given["case"] or each.name,
            given["trace"] or each.trace,
            make_config(given, each.config),
            given.get("detail", each.detail),
        )
        for each in stored
    ]


def _told(name: str, case: Row, folder: Path) -> str:
    summary = case["summary"]
    states = ", ".join(f"{summary[state]} {state}" for state in ("finished", "rejected", "stuck"))
    return (
        f"{folder / case['log']}: case {name}, {summary['steps']} steps, {summary['requests']} requests "
        f"({states}), {summary['preemptions']} preemptions"
    )


if __name__ == "__main__":
    sys.exit(main())
