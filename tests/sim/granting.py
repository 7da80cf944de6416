"""Certificates in a run: who certifies whom in which federation, how far, for what and for how long, and takes it back.

A root is a key on no node; so may a delegate be (an *officer*), and then what they sign is brought to some nodes by
their admins. A delegate that is a node says its certificates as it says everything.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from crdt.entry import DAY_MS, Class
from federation.identity import NodeKey, did_of
from federation.replica import Statement
from federation.trust import MEMBER_SCOPE, Scope, cert_body, issue_cert
from tests.sim.node import SimNode

if TYPE_CHECKING:
    from tests.sim.setting import Scene

MINUTE_MS: Final = 60_000
LIVES: Final = (None, None, None, MINUTE_MS, 60 * MINUTE_MS, DAY_MS, 31 * DAY_MS, 41 * DAY_MS)
AHEAD: Final = (0, 0, 0, 0, 0, 0, MINUTE_MS, 2 * DAY_MS)
SCOPES: Final = (
    *(MEMBER_SCOPE,) * 4, Scope(frozenset({Class.PUBLIC})), Scope(frozenset({Class.INTERNAL})),
    Scope(MEMBER_SCOPE.classes, types=("tool",)), Scope(MEMBER_SCOPE.classes, tags=("red",)),
)  # fmt: skip


class Grants:
    """What roots and delegates sign. Delegates are drawn where a scene has that feature."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.random = scene.world.random

    def begin(self) -> None:
        """Each member has a certificate by its root, and delegates have theirs."""
        scene = self.scene
        for name, root in scene.of.items():
            self._issue(root, root, next(node for node in scene.nodes if node.name == name).key, everywhere=True)
        if "delegates" not in scene.features:
            return
        for n, root in enumerate(scene.roots):
            officer = NodeKey(self.random.randbytes(32))
            scene.keys.append(officer)
            scene.oracle.labels[officer.public] = f"officer{n + 1}"
            members = [node.key for node in scene.nodes if scene.of.get(node.name) is root]
            for delegate in (officer, *self.random.sample(members, min(len(members), 1))):
                scene.issuers.setdefault(root.public, []).append(delegate)
                self._issue(root, root, delegate, depth=self.random.randint(1, 3), everywhere=True)

    def change(self) -> None:
        """Somebody is let in, by a root or a delegate, or what was said of it is taken back."""
        scene, random = self.scene, self.random
        member = random.choice(scene.nodes)
        root = scene.of.get(member.name) or random.choice(scene.roots)
        delegates = scene.issuers.get(root.public, [])
        subject = random.choice(delegates) if delegates and random.random() < 0.3 else member.key
        issuer = random.choice([root, root, *(key for key in delegates if key is not subject)])
        granted = random.random() < 0.6
        if delegates and random.random() < 0.15:  # one that means another federation, or none that there is
            root = random.choice([*scene.roots, *scene.keys])
        elif granted and subject is member.key:
            scene.of[member.name] = root
        if not delegates:
            self._issue(root, issuer, subject, granted=granted)
            return
        begin = scene.world.now + random.choice(AHEAD)
        life = random.choice(LIVES)
        self._issue(
            root, issuer, subject, granted=granted, depth=random.choice((1, 1, 2, 3, 0)) if subject in delegates else 0,
            scope=random.choice(SCOPES), begin=begin, end=None if life is None else begin + life,
        )  # fmt: skip

    def _issue(
        self, root: NodeKey, issuer: NodeKey, subject: NodeKey, *, granted: bool = True, depth: int = 0,
        scope: Scope = MEMBER_SCOPE, begin: int | None = None, end: int | None = None, everywhere: bool = False,
    ) -> None:  # fmt: skip
        scene, label = self.scene, self.scene.oracle.label
        body = cert_body(
            root.public, now_ms=scene.world.now, not_before=begin, not_after=end,
            state="granted" if granted else "revoked", scope=scope, depth=depth,
        )  # fmt: skip
        what = f"{'certifies' if granted else 'revokes'} {label(subject.public)} under {label(root.public)}, {body}"
        node = next((node for node in scene.nodes if node.key is issuer), None)
        if node is not None:
            scene.world.tell(f"{node} {what}")
            if node.process is not None:
                node.process.say([Statement("cert", did_of(subject.public), Class.PUBLIC, body)])
            return
        cert = issue_cert(
            issuer, subject.public, now_ms=scene.world.now, federation=root.public, not_before=begin, not_after=end,
            state="granted" if granted else "revoked", scope=scope, depth=depth,
        )  # fmt: skip
        scene.oracle.signed((cert,))
        bearers: list[SimNode] = [node for node in scene.nodes if root.public in node.anchors]
        if not everywhere:
            bearers = self.random.sample(bearers, min(len(bearers), 2))
        scene.world.tell(f"{label(issuer.public)} {what}: {cert.id.hex()[:6]} to {bearers}")
        for bearer in bearers:
            if bearer.process is not None:
                bearer.process.take(cert)
