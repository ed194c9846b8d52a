"""Who is let in and let go, and what is known of those who run and wait (vLLM's rules S3 to S5 and S8)."""

from __future__ import annotations

from kvsim.batch import Batch
from kvsim.job import Job
from kvsim.plan import Plan
from kvsim.policy import Lease, Match, Policy
from kvsim.scheduler import Limits
from kvsim.waiting import WaitingQueue, waiting_queue


class Admission:
    """The door of a replica: requests wait before it, are admitted with a lease, and leave with their last token."""

    def __init__(self, policy: Policy, limits: Limits, batch: Batch, now: float) -> None:
        """Share the batch with whoever prices and ends the steps."""
        self.policy = policy
        self.limits = limits
        self.batch = batch
        self.waiting: WaitingQueue = waiting_queue(limits.scheduling_policy)
        self.width = limits.width
        self.places = limits.max_num_requests
        self.reach = 0
        """Σ `Job.reach` over the running."""
        self.dirty = True
        """Whether memory, or who runs and waits, changed since somebody last looked."""
        self.blocked: Job | None = None
        """A head of the queue that cannot be admitted until something is released."""
        self.ending: dict[int, Job] = {}
        """Running sequences whose last token is on its way; they hold their memory until it is out."""
        self.stalled: dict[int, Job] = {}
        """Decoding sequences that were passed over in the last step."""
        self.in_flight: dict[int, int] = {}
        """Tokens per row of a step under way: until it ends they do not count as computed (rule Y3)."""
        self.last_end = now
        """When the last scheduled step ends."""
        self.first_admission_tokens = 0
        """Tokens of prompts looked up when first admitted."""
        self.readmission_tokens = 0
        """Tokens looked up when admitted again."""
        self._stamp = 0

    def queue(self, jobs: list[Job]) -> None:
        """Let arrivals wait, in order."""
        for job in jobs:
            self.waiting.add(job)
        # An adaptive threshold falls as more requests are there, so that a smaller chunk may do; where the cache
        # decides the order, a newcomer may be first in line.
        adaptive = self.limits.long_prefill_token_threshold_adaptive
        if adaptive or self.waiting.follows_cache or self.blocked is not self.waiting.head():
            self.blocked = None
            self.dirty = True

    def finish(self, job: Job) -> None:
        """Release a sequence whose last token is out, even if it was preempted meanwhile (rule Y5)."""
        self.blocked = None
        self.dirty = True
        if job.index in self.ending:
            del self.ending[job.index]
            self.let_go(job)
        else:
            self.waiting.remove(job)

    def may_admit(self) -> bool:
        """Tell whether a step in which everybody decodes would try to admit somebody."""
        head = self.waiting.head()
        if head is None or head is self.blocked or self.limits.scheduler != "vllm":
            return False
        return len(self.batch.running) < self.places

    def let_go(self, job: Job) -> None:
        """Release a running sequence that has its last token."""
        self.blocked = None
        self.dirty = True
        del self.batch.running[job.index]
        if job.reach:
            self.forget(job)
        self.policy.release(job, True)

    def admit(self, plan: Plan, now: float) -> None:
        """Admit waiting requests until one cannot be (rules S3 to S5, S8)."""
        waiting, limits, policy, running = self.waiting, self.limits, self.policy, self.batch.running
        if policy.spare_blocks >= policy.admits_from:
            self.blocked = None
        if self.blocked is None and plan.budget > 0 and len(running) < self.places:
            waiting.arrange(policy.lookup)
        while plan.budget > 0 and len(running) < self.places:
            job = waiting.head()
            if job is None or job is self.blocked:
                return
            width = self.width
            if width > 1:
                # Only what comes back from swap goes on as several sequences.
                width = width if job.tokens > job.prompt_tokens else 1
                if width > plan.budget:
                    return
            match = policy.lookup(job)
            tokens = min(job.tokens - match.tokens, plan.cap)
            if not limits.enable_chunked_prefill and tokens > plan.budget:
                lease = None
            else:
                tokens = min(tokens, plan.budget)
                lease = policy.admit(job, match, tokens)
            if lease is None:
                only_decodes = not plan.chunks and not self.batch.prefilling
                self.blocked = job if policy.refusal_holds and only_decodes else None
                return
            waiting.take()
            plan.budget -= tokens * width
            plan.admitted.append((job.index, match.tokens))
            plan.chunks[job.index] = (job, tokens)
            job.chunk = tokens
            self.enter(job, match, now)
            self.batch.prefilling[job.index] = job
            job.computed = match.tokens + tokens
            self.lease(job, lease, job.computed)

    def enter(self, job: Job, match: Match, now: float) -> None:
        """Let a request run that found so much of itself."""
        self.dirty = True
        self.batch.running[job.index] = job
        job.stamp = self._stamp
        self._stamp += 1
        job.found = match.tokens
        if not job.preemptions:
            job.cached = match.tokens
            job.first_scheduled = now if now > self.last_end else self.last_end
            self.first_admission_tokens += job.tokens
            return
        job.readmission_hits += match.tokens - match.restored
        job.recomputed += max(0, job.lost - match.tokens)
        self.readmission_tokens += job.tokens

    def lease(self, job: Job, lease: Lease, tokens: int) -> None:
        """Note what a sequence has been given for so many tokens."""
        if self.batch.block_size:
            self.batch.cover(job, tokens)
            return
        job.lease = lease
        reach = self.policy.reach(job, lease, job.final)
        self.reach += reach - job.reach
        job.reach = reach
        if job.decoding:
            self.batch.expect(job)

    def forget(self, job: Job) -> None:
        """Take a sequence that gives its memory back out of the sums over what sequences hold."""
        self.reach -= job.reach
        job.reach = 0


def waited(jobs: list[Job], now: float) -> float:
    """Return how long requests have waited in sum when they are queued at `now`, in seconds."""
    return now - jobs[0].arrival if len(jobs) == 1 else sum([now - job.arrival for job in jobs])
