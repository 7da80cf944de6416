"""Numbers of the node for Prometheus, in a registry of its own: two nodes in one process share nothing.

What is counted with every call is counted in plain ints (everything runs in one thread) and turned into samples when
somebody scrapes: 0.2 µs instead of 2 for a counter and a histogram of prometheus-client. What the parts of the node
count themselves is read from them at that moment.

`TABLE` names every metric with its help; what is not in it does not exist (a test holds the two together).
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric

from kosreg.quota_views import frozen_counts

if TYPE_CHECKING:
    from kosreg.api.node import Node

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"

BUCKETS: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
"""Upper bounds in seconds. A local read takes 50 µs, a durable write some ms, a long poll up to 60 s."""
_BOUNDS: Final = (*(str(bound) for bound in BUCKETS), "+Inf")

STATUSES: Final = ("active", "degraded", "offline")


@dataclass(frozen=True, slots=True)
class MetricDoc:
    """One metric, as it is documented and scraped. Counters are shown with `_total` behind their name."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()


TABLE: Final = (
    MetricDoc("kosreg_requests", "counter", "Calls answered.", ("method", "route", "status")),
    MetricDoc("kosreg_request_seconds", "histogram", "How long calls took, without sending.", ("method", "route")),
    MetricDoc("kosreg_requests_in_flight", "gauge", "Calls being answered, long polls included."),
    MetricDoc("kosreg_refusals", "counter", "Problems answered, on REST and the WebSocket.", ("problem",)),
    MetricDoc("kosreg_connections", "gauge", "Open connections to the API."),
    MetricDoc("kosreg_connections_refused", "counter", "Connections closed at once since too many were open."),
    MetricDoc("kosreg_websockets", "gauge", "Open WebSockets."),
    MetricDoc("kosreg_services", "gauge", "Services by effective status.", ("status",)),
    MetricDoc("kosreg_nodes", "gauge", "Other nodes by what is thought of them.", ("state",)),
    MetricDoc("kosreg_isolated", "gauge", "1 while this node takes itself to be cut off, else 0."),
    MetricDoc("kosreg_beacons", "counter", "Beacons that came, by what became of them.", ("what",)),
    MetricDoc("kosreg_neighbours", "gauge", "Nodes that are heard on the local network."),
    MetricDoc("kosreg_neighbours_passed", "counter", "Announcements there for which there was no room."),
    MetricDoc("kosreg_frozen", "gauge", "Other nodes that are frozen as over their quota, by part.", ("part",)),
    MetricDoc("kosreg_successions", "counter", "Successions of keys, by what became of them.", ("what",)),
    MetricDoc("kosreg_quota", "counter", "Freezes, their ends, and entries refused meanwhile.", ("what",)),
    MetricDoc("kosreg_link_events", "counter", "Links and attempts; code: why this node ended one.", ("what", "code")),
    MetricDoc("kosreg_peer_entries", "counter", "Entries that peers sent, by what became of them.", ("what",)),
    MetricDoc("kosreg_peer_refusals", "counter", "What peers sent and was not taken, by reason.", ("reason",)),
    MetricDoc("kosreg_beats", "counter", "Heartbeats that counted."),
    MetricDoc("kosreg_unchanged_registrations", "counter", "Registrations of the same record again."),
    MetricDoc("kosreg_expiries", "counter", "Services that missed their ttl."),
    MetricDoc("kosreg_changes", "gauge", "Number of the last change of what this node shows (seq)."),
    MetricDoc("kosreg_store_commits", "counter", "Group commits."),
    MetricDoc("kosreg_store_rows", "counter", "Rows written."),
    MetricDoc("kosreg_store_failed", "counter", "Writes that the store refused."),
    MetricDoc("kosreg_store_busy_seconds", "counter", "Time spent in commits."),
    MetricDoc("kosreg_store_waiting", "gauge", "Writes that wait for their commit."),
    MetricDoc("kosreg_store_waiting_bytes", "gauge", "Their bytes, about."),
    MetricDoc("kosreg_equivocations", "counter", "Times that a key was seen to sign two things with one stamp."),
    MetricDoc("kosreg_ready", "gauge", "1 when the node serves, else 0."),
    MetricDoc("kosreg_started_seconds", "gauge", "When the node started, s since 1970."),
    MetricDoc("kosreg_info", "gauge", "Always 1; the labels say which node this is.", ("version", "did")),
)
"""Beside these: `process_…` of prometheus-client (memory, CPU, open files)."""


class RouteMeter:
    """Calls of one route: how many by status, and how long they took."""

    __slots__ = ("buckets", "method", "path", "seconds", "statuses")

    def __init__(self, method: str, path: str) -> None:
        self.method = method
        self.path = path
        self.statuses: dict[int, int] = {}
        self.buckets = [0] * (len(BUCKETS) + 1)
        self.seconds = 0.0

    def count(self, status: int, seconds: float) -> None:
        """One call more."""
        statuses = self.statuses
        statuses[status] = statuses.get(status, 0) + 1
        self.buckets[bisect_left(BUCKETS, seconds)] += 1
        self.seconds += seconds


class Metrics:
    """All numbers of one node."""

    def __init__(self) -> None:
        self.in_flight = 0
        self.connections = 0
        self.connections_refused = 0
        self.routes: dict[tuple[str, str], RouteMeter] = {}
        self.refusals: dict[str, int] = {}
        self._counted: tuple[int, dict[str, int]] | None = None

    def route(self, method: str, path: str) -> RouteMeter:
        """The meter of a route: kept by whoever counts."""
        return self.routes.setdefault((method, path), RouteMeter(method, path))

    def refused(self, slug: str) -> None:
        """One more problem answered."""
        self.refusals[slug] = self.refusals.get(slug, 0) + 1

    def services(self, node: Node) -> dict[str, int]:
        """Services by effective status. Counting 100,000 takes 10 ms, so it is kept until something changes."""
        head = node.catalog.journal.head
        if self._counted is None or self._counted[0] != head:
            counts = dict.fromkeys(STATUSES, 0)
            for service in node.catalog:
                counts[service.status] += 1
            self._counted = (head, counts)
        return self._counted[1]

    def exposition(self, node: Node) -> bytes:
        """What `/metrics` answers, in Prometheus' text format."""
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Snapshot(self, node))
        ProcessCollector(registry=registry)
        return generate_latest(registry)


class _Snapshot:
    """A collector of prometheus-client: reads everything at the moment of the scrape."""

    def __init__(self, metrics: Metrics, node: Node) -> None:
        self._metrics = metrics
        self._node = node

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterator[Metric]:
        values = dict(self._plain())
        for doc in TABLE:
            if doc.kind == "histogram":
                yield self._seconds(doc)
                continue
            family: CounterMetricFamily | GaugeMetricFamily
            if doc.kind == "counter":
                family = CounterMetricFamily(doc.name, doc.help, labels=doc.labels)
            else:
                family = GaugeMetricFamily(doc.name, doc.help, labels=doc.labels)
            rows = self._labelled(doc.name) if doc.labels else [((), values[doc.name])]
            for labels, value in rows:
                family.add_metric(labels, value)
            yield family

    def _plain(self) -> Iterator[tuple[str, float]]:
        metrics, node, stats = self._metrics, self._node, self._node.store.stats()
        yield "kosreg_requests_in_flight", metrics.in_flight
        yield "kosreg_connections", metrics.connections
        yield "kosreg_connections_refused", metrics.connections_refused
        yield "kosreg_websockets", len(node.sockets)
        yield "kosreg_isolated", int(node.mesh.membership.reach.isolated)
        yield "kosreg_neighbours", len(node.nearby.neighbours)
        yield "kosreg_neighbours_passed", node.nearby.neighbours.passed_by
        yield "kosreg_beats", node.registry.beats
        yield "kosreg_unchanged_registrations", node.registry.unchanged
        yield "kosreg_expiries", node.liveness.expiries
        yield "kosreg_changes", node.catalog.journal.head
        yield "kosreg_store_commits", stats.commits
        yield "kosreg_store_rows", stats.rows
        yield "kosreg_store_failed", stats.failed
        yield "kosreg_store_busy_seconds", stats.busy_s
        yield "kosreg_store_waiting", stats.waiting
        yield "kosreg_store_waiting_bytes", stats.waiting_bytes
        yield "kosreg_equivocations", node.replica.counts["equivocations"]
        yield "kosreg_ready", int(node.ready)
        yield "kosreg_started_seconds", node.started_ms / 1000

    def _labelled(self, name: str) -> Iterator[tuple[tuple[str, ...], float]]:
        metrics, node = self._metrics, self._node
        if name == "kosreg_requests":
            for meter in metrics.routes.values():
                for status, count in meter.statuses.items():
                    yield (meter.method, meter.path, str(status)), count
        elif name == "kosreg_refusals":
            for slug, count in metrics.refusals.items():
                yield (slug,), count
        elif name == "kosreg_services":
            for effective, count in metrics.services(node).items():
                yield (effective,), count
        elif name == "kosreg_nodes":
            for word, count in node.sync.homes.counts().items():
                yield (word,), count
        elif name == "kosreg_frozen":
            for part, count in frozen_counts(node.mesh.quotas).items():
                yield (part,), count
        elif name == "kosreg_successions":
            for what in ("followed", "refused", "forked"):
                yield (what,), node.trust.successions.counts[what]
        elif name == "kosreg_quota":
            for what in ("frozen", "reopened", "refused"):
                yield (what,), node.mesh.quotas.counts[what]
        elif name == "kosreg_link_events":
            for event, count in node.peer_node.counts.items():
                yield (*event.partition(" ")[::2],), count
        elif name == "kosreg_peer_entries":
            for what in ("received", "known", "older", "adopted", "refused_origin", "refused_relay"):
                yield (what,), node.replica.counts[what]
        elif name == "kosreg_peer_refusals":
            for reason, count in node.mesh.refusals.total().items():
                yield (reason,), count
        elif name == "kosreg_beacons":
            for what, count in node.mesh.membership.counts.items():
                yield (what,), count
        else:
            assert name == "kosreg_info", f"{name} is in TABLE, but nobody reads it"
            yield (node.version, node.did), 1

    def _seconds(self, doc: MetricDoc) -> Metric:
        family = HistogramMetricFamily(doc.name, doc.help, labels=doc.labels)
        for meter in self._metrics.routes.values():
            if not meter.statuses:
                continue
            total = 0
            buckets: list[tuple[str, float]] = []
            for bound, count in zip(_BOUNDS, meter.buckets, strict=True):
                total += count
                buckets.append((bound, total))
            family.add_metric((meter.method, meter.path), buckets, meter.seconds)
        return family
