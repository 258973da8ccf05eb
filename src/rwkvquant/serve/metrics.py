"""/metrics: what has happened since the start, in the text format of Prometheus."""

from __future__ import annotations

from collections import Counter

from rwkvquant.serve.scheduler import Scheduler


class Metrics:
    """Counts requests; the rest is read from the scheduler."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()

    def count(self, path: str, status: int) -> None:
        self.requests[path, status] += 1

    def text(self, scheduler: Scheduler) -> str:
        counts, prefixes = scheduler.counts, scheduler.prefixes
        running, waiting = scheduler.load
        lines = ["# HELP rwkvquant_requests_total Requests that were answered.", "# TYPE rwkvquant_requests_total counter"]
        for (path, status), number in sorted(self.requests.items()):
            lines.append(f'rwkvquant_requests_total{{path="{path}",status="{status}"}} {number}')
        for name, kind, about, value in (
            ("prompt_tokens_total", "counter", "Tokens of prompts.", counts.prompt_tokens),
            ("cached_tokens_total", "counter", "Tokens of prompts whose state was cached.", counts.cached_tokens),
            ("written_tokens_total", "counter", "Tokens of answers.", counts.written_tokens),
            ("steps_total", "counter", "Steps of the model.", counts.steps),
            ("step_seconds_total", "counter", "Time of these steps.", round(counts.step_seconds, 6)),
            ("parked_total", "counter", "Answers that gave their slot to others for a while.", counts.parked),
            ("running", "gauge", "Answers that have a slot.", running),
            ("waiting", "gauge", "Answers that wait for a slot.", waiting),
            ("slots", "gauge", "Slots, used and free.", scheduler.slots),
            ("cache_states", "gauge", "States of cached prefixes.", len(prefixes)),
            ("cache_bytes", "gauge", "Their memory.", prefixes.nbytes),
            ("cache_hits_total", "counter", "Prompts that began with a cached prefix.", prefixes.hits),
            ("cache_misses_total", "counter", "Prompts that did not.", prefixes.misses),
        ):
            lines += [f"# HELP rwkvquant_{name} {about}", f"# TYPE rwkvquant_{name} {kind}", f"rwkvquant_{name} {value}"]
        return "\n".join(lines) + "\n"
