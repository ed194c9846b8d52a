"""The contract of a KV-cache allocation policy: who gets which memory, and for how long."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from math import gcd, inf
from typing import Any, NamedTuple

from kvsim.beam import Beam
from kvsim.placement import Placement
from kvsim.request import Sequence, Workload
from kvsim.tier_summary import TierFigures
from kvsim.window import Edge


class Span(NamedTuple):
    """Layers of one attention span, or slots of a pool that follow one span."""

    window: int | None
    """Last tokens attended to; None for all of them; a `kvsim.window.Chunk` for those since a multiple of it."""
    weight: int
    """Layers with this span (or pool slots that one token takes because of them)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The memory a policy is given, and the limits it may rely on."""

    kv_bytes: int
    """Bytes set aside for KV."""
    token_bytes: int
    """KV bytes of one token over all layers."""
    max_model_len: int
    """Longest sequence, prompt and outputs, in tokens."""
    max_num_batched_tokens: int = 8192
    """Most tokens computed in one step."""
    tensors_per_layer: int = 2
    """KV tensors of a layer: K and V, or the one latent of MLA."""
    spans: tuple[Span, ...] = (Span(None, 1),)
    """The model's layers by attention span, in the order in which the layers first show them."""
    num_gpu_blocks_override: int | None = None
    """Blocks by decree, vLLM's null block included; kv_bytes is then not looked at."""
    async_scheduling: bool = False
    """Whether a step is scheduled while the one before it runs."""
    width: int = 1
    """Sequences of a request, samples or beams, that have its prompt in common."""
    beam: Beam | None = None
    """How they fork, where they are beams."""
    copy_bytes_per_second: float = inf
    """Bytes of KV copied a second within the GPU's memory: half its bandwidth, as each is read and written."""
    swap_is_unlimited: bool = False
    """Whether swap space takes everything, as where only the batch is measured."""
    workload: Workload | None = None
    """The trace, for the identity of prompt content; None when nothing is shared."""
    true_tokens: Callable[[Sequence], int] | None = None
    """Final length of a sequence; given to policies with `oracle` in their name only."""

    @property
    def tokens(self) -> int:
        """Tokens whose KV fits, were it packed without gaps."""
        return self.kv_bytes // self.token_bytes

    @property
    def tensors(self) -> int:
        """Tensors that hold KV, over all layers."""
        return self.tensors_per_layer * sum(span.weight for span in self.spans)

    @classmethod
    def of_tokens(cls, tokens: int, max_model_len: int | None = None, **limits: Any) -> Pool:
        """Make a pool of so many token slots of one byte each, for tests and examples."""
        return cls(kv_bytes=tokens, token_bytes=1, max_model_len=max_model_len or tokens, **limits)

    @classmethod
    def of_blocks(cls, num_blocks: int, max_model_len: int, **limits: Any) -> Pool:
        """Make a pool of so many blocks, the null block included, as vLLM's override does."""
        return cls(
            kv_bytes=num_blocks,
            token_bytes=1,
            max_model_len=max_model_len,
            num_gpu_blocks_override=num_blocks,
            **limits,
        )


class Match(NamedTuple):
    """What a policy already holds of a sequence that wants to be admitted."""

    tokens: int = 0
    """Leading tokens that need no prefill."""
    restored: int = 0
    """How many of those come back from swap and are no cache hit."""
    detail: object = None
    """The policy's own, handed back to `admit`."""


class Lease(NamedTuple):
    """Leave to grow: until `until` tokens the engine need not ask again."""

    until: int
    """Length in tokens that the sequence may reach in the memory it holds."""


class Usage(NamedTuple):
    """What a pool is used for, in slots; the rest of `capacity` is free."""

    held: int
    """Slots given to sequences, each counted once."""
    shared: int = 0
    """Slots by which the sequences' live tokens exceed that, because several read the same."""
    reusable: int = 0
    """Slots whose content can still be hit, held by nobody."""
    external: int = 0
    """Free slots in pieces smaller than the least piece the next waiting request could take."""


NO_MATCH = Match()


class Policy(ABC):
    """Place sequences in a pool, grow them, and take the memory back.

    Subclasses take keyword arguments with defaults and store them unchanged under their own names, so a
    policy can be cloned and swept; the pool arrives later, in `reset`. The calls for one sequence are
    `lookup` and `admit`, then any number of `grow`, then `release`. `admit` and `grow` answer with a
    `Lease`, or with None meaning *not now, and nothing was taken* (a window policy may even then have
    given back what the sequence will never read again). The engine keeps `sequence.tokens` and
    `sequence.computed` true when it calls. A slot is what `capacity` counts: one token in all layers for
    most policies, one token in one layer group where groups have blocks of their own.
    """

    name: str
    """What `--policy` calls it."""
    refusal_holds: bool = True
    """Whether a refused admission stays refused while others only decode and nothing is released."""
    kv_layout: str = "paged"
    """How a sequence's KV lies, which attention kernels are timed by: `paged`, or `contiguous` in one piece."""
    shares_prefixes: bool = False
    """Whether requests find each other's content, as a user who asks for prefix caching wants it."""
    holds_samples: bool = False
    """Whether a request may be several sequences with one prompt, samples or beams (`Pool.width`).

    They grow together, one token each a step: `tokens` and leases are of each, `grow` is for all of them or none.
    Until its whole prompt is computed a request is one sequence; from the step that computes the last of it on, it is
    `width`. Where they are beams, `Beam.lineage` says who goes on from whom.
    """
    reads_lengths: bool = False
    """Whether `usage` looks at `computed` of every sequence, which the engine then brings up to date."""
    counted_block: int = 0
    """Tokens of the blocks that the engine counts for all decoding sequences together: each takes one whenever
    its length outgrows a multiple of this, and leases say nothing. 0 where leases tell (the default)."""
    spare_blocks: int = 0
    """Blocks that decoding sequences can still take, where blocks are counted."""
    counted_tables: int = 1
    """Block tables of a sequence, and so blocks that it takes whenever it takes any, where blocks are counted."""
    counted_edges: tuple[Edge, ...] = ()
    """Windows that give blocks back, where blocks are counted."""
    vacated: int = 0
    """Slots of blocks that windows gave back, of sequences that still run, where blocks are counted."""
    admits_from: int = 1 << 62
    """Spare blocks from which on the sequence refused last would be admitted, where windows give blocks back."""
    never_refused: int = 0
    """Length in tokens up to which `refuses` has nothing to say."""
    capacity: int
    """Slots in the pool; set by `reset`."""
    spans: tuple[Span, ...]
    """Slots one token takes, by attention span; set by `reset`."""
    attention: tuple[Span, ...]
    """Layers by the span they attend to under this policy, for the step cost; set by `reset`."""

    @abstractmethod
    def reset(self, pool: Pool) -> None:
        """Take over an empty pool; raise InputError when this policy cannot work in it."""

    def refuses(self, tokens: int) -> str | None:
        """Say why a sequence of `tokens` can never be held, even alone; None when it can."""
        del tokens
        return None

    def refuses_request(self, prompt: int, tokens: int) -> str | None:
        """Say why a request can never be held, even alone, whose sequences all get to `tokens`; None when it can.

        Where it is several sequences the `prompt` tokens are common to them.
        """
        del prompt
        return self.refuses(tokens)

    def lookup(self, sequence: Sequence) -> Match:
        """Find how much of the sequence is already there; changes nothing."""
        del sequence
        return NO_MATCH

    @abstractmethod
    def admit(self, sequence: Sequence, match: Match, tokens: int) -> Lease | None:
        """Give a waiting sequence memory for `match.tokens` + `tokens` tokens, computed in this step."""

    @abstractmethod
    def grow(self, sequence: Sequence, tokens: int) -> Lease | None:
        """Extend a running sequence so that its first `tokens` tokens have a place."""

    @abstractmethod
    def release(self, sequence: Sequence, finished: bool) -> None:
        """Take back everything: the sequence finished, or (`finished=False`) was preempted."""

    @abstractmethod
    def usage(self, waiting: Sequence | None) -> Usage:
        """Count the slots as they are now, `waiting` being the next request in line."""

    def reach(self, sequence: Sequence, lease: Lease, final: int) -> int:
        """Count the slots, from its first token on, that it has and will have filled at length `final`."""
        del sequence
        return self.slots_per_token * min(lease.until, final)

    def footprint(self, tokens: int) -> int:
        """Count the slots that one sequence of `tokens` takes; what bounds the batch at that length."""
        return self.slots_per_token * tokens

    def placements(self, running: Iterable[Sequence], waiting: Sequence | None) -> Placement | None:
        """Say where everything lies, for a memory map; None, the default, from a policy that does not know.

        `running` hold memory, `waiting` is the next request in line. Changes nothing.
        """
        del running, waiting
        return None

    def counted(self) -> Policy | None:
        """Return an unused policy that gives the same answers for the same pool, but counts blocks without placing
        them; None, the default, where there is none.

        The engine prefers it for runs whose placement nobody looks at. Its `counted_block` is above 0; it neither
        copies nor maps anything (`transfers`), and no free block is too small (`Usage.external`).
        """
        return None

    def take_blocks(self, blocks: int) -> None:
        """Give decoding sequences so many blocks; of policies with a `counted_block`."""
        # Not abstract, since a policy without a `counted_block` is never asked.
        raise NotImplementedError(f"{self.name} does not count blocks")

    def take_back(self, blocks: int) -> None:
        """Take blocks back that have left the windows of decoding sequences; of policies with `counted_edges`."""
        raise NotImplementedError(f"{self.name} does not count windows")

    def transfers(self) -> float:
        """Return and forget the seconds of copying or mapping for this step's calls that its computing waits for."""
        return 0.0

    def transfers_beside(self) -> float:
        """Return and forget the seconds of copying or mapping beside this step's computing.

        The step's computing takes at least so long; `transfers` comes on top.
        """
        return 0.0

    def tiers(self) -> tuple[TierFigures, ...]:
        """Tell the places in which KV was kept, fastest first, from a policy that has several."""
        return ()

    @property
    def blocks_in_use(self) -> int:
        """Blocks held by sequences, as vLLM counts them; 0 for a policy without blocks."""
        return 0

    @property
    def slots_per_token(self) -> int:
        """Slots that one token takes."""
        return sum(span.weight for span in self.spans)

    def parameters(self) -> dict[str, object]:
        """Return the constructor's arguments as given."""
        return {name: getattr(self, name) for name in parameter_defaults(type(self))}

    def clone(self) -> Policy:
        """Return an unused policy with the same parameters."""
        return type(self)(**self.parameters())

    def __repr__(self) -> str:
        """Show the class and its parameters."""
        inside = ", ".join(f"{name}={value!r}" for name, value in self.parameters().items())
        return f"{type(self).__name__}({inside})"


def parameter_defaults(cls: type[Policy]) -> dict[str, object]:
    """Return a policy class's constructor parameters with their defaults, in order."""
    signature = inspect.signature(cls)
    return {name: parameter.default for name, parameter in signature.parameters.items()}


def reduced(spans: tuple[Span, ...]) -> tuple[Span, ...]:
    """Divide the weights by their greatest common divisor: slots need only the ratio of the spans."""
    divisor = gcd(*(span.weight for span in spans))
    return tuple(Span(span.window, span.weight // divisor) for span in spans)
