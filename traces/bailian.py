"""Qwen-Bailian usage traces: chats with turns, prefix-chained ids of 16-token blocks."""

from __future__ import annotations

import dataclasses
from array import array

from kvsim.errors import InputError
from kvsim.traces.reader import Format, Found, Options, has
from kvsim.traces.rows import Collector, integers, ints, json_rows, whole
from kvsim.traces.source import Source

BLOCK_TOKENS = 16
FIELDS = {
    "arrival": "timestamp",
    "prompt_tokens": "input_length",
    "output_tokens": "output_length",
    "block_ids": "hash_ids",
}


def read(source: Source, options: Options) -> Found:
    """Read rows of `chat_id`, `parent_chat_id`, `timestamp` (s), lengths and `hash_ids`.

    Turns of one chat get one session number; they keep the arrival times they had, so the trace is open
    loop. A chat whose parent is not in the file starts a session.
    """
    del options
    rows = Collector(source, FIELDS)
    session = array("q")
    sessions: dict[int, int] = {}
    for line, row in json_rows(source):
        place = rows.add(line, row)
        rows.add_ids(integers(row, "hash_ids", place))
        chat, before = whole(row, "chat_id", place), whole(row, "parent_chat_id", place)
        if chat in sessions:
            raise InputError(f"{place}: chat_id {chat} was there before; it must be a new one")
        sessions[chat] = sessions[before] if before in sessions else len(session)
        session.append(sessions[chat])
    trace = dataclasses.replace(rows.trace(BLOCK_TOKENS), session=ints(session))
    return Found(trace=trace, origin=rows.origin(chained=True))


FORMAT = Format("bailian", read, has("json", "chat_id", "parent_chat_id", *FIELDS.values()))
