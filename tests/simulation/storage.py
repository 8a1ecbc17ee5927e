"""The simulated store: one set of objects, seen by each process through a store of its own, with faults by seed.

What belongs here: what a store may do to those who use it. The shipped code of :class:`apiary_df.store.Store` runs
above it wherever it decides something (create-once with its read-back, ranges, what is damaged).
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeVar

from apiary_df.connect import Site
from apiary_df.errors import ApiaryError, ObjectExists, ObjectMissing, StorageTransient, StorageUnreachable
from apiary_df.protocol import keys
from apiary_df.protocol.seal import sealed_bytes
from apiary_df.store import Store, StoreOptions
from apiary_df.store_options import ObjectMeta

from .kernel import Killed, Process, World

EPOCH = datetime(2030, 1, 1, tzinfo=timezone.utc)
"""The store's clock at the world's beginning."""

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """What goes wrong in the store, and how often. Chances are for each request, delays in seconds.

    Attributes:
        latency_s: Usual time of a request.
        slow: Chance that one takes up to ``slow_s``.
        slow_s: How long a slow one takes at most.
        lost_request: Chance that one fails without an effect.
        lost_reply: Chance that one fails though it had its effect.
        late: Chance that one fails, and has its effect later.
        late_s: How much later at most.
        half_delete: Chance that a delete of several fails in the middle.
        lag: Chance that a listing is old.
        lag_s: How old at most.
        torn: Chance that an object is stored cut short, or with a flipped bit.
        misread: Chance that what is read is cut short, or has a flipped bit, this once.
        only_creates: Only requests that create once fail.
    """

    latency_s: float = 0.02
    slow: float = 0.0
    slow_s: float = 3.0
    lost_request: float = 0.0
    lost_reply: float = 0.0
    late: float = 0.0
    late_s: float = 5.0
    half_delete: float = 0.0
    lag: float = 0.0
    lag_s: float = 3.0
    torn: float = 0.0
    misread: float = 0.0
    only_creates: bool = False

    @property
    def any(self) -> bool:
        """Whether a request can fail or give anything but the truth."""
        return self.fails or self.damages or self.lag > 0

    @property
    def fails(self) -> bool:
        """Whether a request can fail."""
        return any((self.lost_request, self.lost_reply, self.late, self.half_delete))

    @property
    def damages(self) -> bool:
        """Whether objects can be damaged."""
        return bool(self.torn or self.misread)


NO_FAULTS = Faults()


@dataclass(frozen=True, slots=True)
class Object:
    """A version of an object."""

    data: bytes
    version: int
    written_s: float


class Backend:
    """The objects, as the store has them.

    Args:
        world: Where it is.
        random: What faults are drawn from.
        faults: What goes wrong.
        may_damage: Which keys may be damaged.
    """

    def __init__(self, world: World, random: Random, faults: Faults, may_damage: Callable[[str], bool]) -> None:
        self.world = world
        self.random = random
        self.faults = faults
        self.objects: dict[str, Object] = {}
        self.failing_until_s = 0.0
        self.failing_chance = 0.0
        self.bad_contents: dict[bytes, int] = {}
        self.bad_records_read = 0
        self.creations: dict[str, int] = {}
        self._may_damage = may_damage
        self._versions = 0
        self._past: deque[tuple[float, str, Object | None]] = deque()

    def lose(self, is_meant: Callable[[str, bytes], bool]) -> str | None:
        """Lose an object of a kind, as no store should; returns its key, or None if there is none."""
        found = sorted(key for key, there in self.objects.items() if is_meant(key, there.data))
        if not found:
            return None
        key = self.random.choice(found)
        self.remove(key)
        return key

    def heal(self) -> None:
        """Let nothing go wrong from now on."""
        self.faults = replace(NO_FAULTS, latency_s=self.faults.latency_s)
        self.failing_until_s = 0.0

    def fail_for(self, seconds: float, chance: float) -> None:
        """Let most requests fail for a while, as in a burst of 503s."""
        self.failing_until_s, self.failing_chance = self.world.now_s + seconds, chance

    # -- effects ------------------------------------------------------------------------------------------------------

    def write(self, key: str, data: bytes) -> None:
        """Put an object."""
        if self.faults.torn and self._may_damage(key) and self.random.random() < self.faults.torn:
            data = self.spoiled(data)
        self._set(key, data)

    def write_new(self, key: str, data: bytes) -> None:
        """Put an object where none is."""
        if key in self.objects:
            raise ObjectExists(f"write {key!r}: there is one", key=key)
        self.creations[key] = self.creations.get(key, 0) + 1
        self.write(key, data)

    def read(self, key: str) -> bytes:
        """Return an object's bytes."""
        found = self.objects.get(key)
        if found is None:
            raise ObjectMissing(f"read {key!r}: there is none", key=key)
        if self.faults.misread and self._may_damage(key) and self.random.random() < self.faults.misread:
            return self.spoiled(found.data)
        return found.data

    def remove(self, key: str) -> None:
        """Delete an object, if it is there."""
        if key in self.objects:
            self._remember(key)
            del self.objects[key]

    def meta(self, key: str) -> ObjectMeta:
        """Return what the store knows of an object."""
        found = self.objects.get(key)
        if found is None:
            raise ObjectMissing(f"look up {key!r}: there is none", key=key)
        return _meta(key, found)

    def below(self, prefix: str) -> list[ObjectMeta]:
        """Return the objects below a prefix, perhaps as they were a while ago."""
        seen = {key: found for key, found in self.objects.items() if key.startswith(prefix)}
        if self.faults.lag and self.random.random() < self.faults.lag:
            as_of_s = self.world.now_s - self.random.uniform(0.0, self.faults.lag_s)
            for when_s, key, before in reversed(self._past):
                if when_s < as_of_s:
                    break
                if key.startswith(prefix):
                    if before is None:
                        seen.pop(key, None)
                    else:
                        seen[key] = before
        return [_meta(key, seen[key]) for key in sorted(seen)]

    def spoiled(self, data: bytes) -> bytes:
        """Return bytes cut short, or with a flipped bit."""
        if not data:
            return data
        place = self.random.randrange(len(data))
        if self.random.random() < 0.4:
            bad, place = data[:place], 0
        else:
            bad = data[:place] + bytes([data[place] ^ (1 << self.random.randrange(8))]) + data[place + 1 :]
        self.bad_contents[bad] = place
        return bad

    def _set(self, key: str, data: bytes) -> None:
        self._remember(key)
        self._versions += 1
        self.objects[key] = Object(data, self._versions, self.world.now_s)

    def _remember(self, key: str) -> None:
        now_s = self.world.now_s
        self._past.append((now_s, key, self.objects.get(key)))
        while self._past and self._past[0][0] < now_s - self.faults.lag_s:
            self._past.popleft()


def _meta(key: str, found: Object) -> ObjectMeta:
    written = EPOCH + timedelta(seconds=found.written_s)
    return ObjectMeta(key=key, size_bytes=len(found.data), last_modified=written, e_tag=str(found.version))


def _not_reached(_options: StoreOptions) -> Any:
    raise AssertionError("a request that is not simulated")


class SimStore(Store):
    """The store as one process reaches it.

    Args:
        backend: The objects.
        process: Whose requests these are.
        kind: What shells take it for.
    """

    def __init__(self, backend: Backend, process: Process, kind: Literal["folder", "bucket"] = "bucket") -> None:
        super().__init__(Site(url="s3://sim/root", connect=_not_reached), StoreOptions())
        self.sleep = process.host.sleep
        self._objects = backend
        self._process = process
        self._taken_for: Literal["folder", "bucket"] = kind
        self._being_created: Counter[str] = Counter()

    @property
    def kind(self) -> Literal["folder", "memory", "bucket"]:
        """What looks and waits cost here, as far as shells ask."""
        return self._taken_for

    def get(self, key: str, limit_bytes: int | None = None) -> bytes:
        """Read an object; none is larger than any limit here."""
        self.counts.add(get=1)
        data = self._request("get", key, lambda: self._objects.read(self._path(key)))
        decides = keys.node_of_mail(key) is not None or "/commit_" in key
        if decides and not self._being_created[key] and data in self._objects.bad_contents:
            # What follows a record is for its readers to look at; what was cut short shows at once.
            self._objects.bad_records_read += self._objects.bad_contents[data] < sealed_bytes(data, len(data))
        return data

    def get_start(self, key: str, length: int) -> tuple[bytes, int] | None:
        """Read an object's first bytes; its size is what there is of it, whole or spoiled."""
        try:
            data = self.get(key)
        except ObjectMissing:
            return None
        return data[:length], len(data)

    def create(self, key: str, data: bytes, token: str) -> bool:
        """Write an object unless there is one; what is read back on the way is compared, and never decoded."""
        self._being_created[key] += 1
        try:
            return super().create(key, data, token)
        finally:
            self._being_created[key] -= 1

    def put(self, key: str, data: Any) -> None:
        """Write an object."""
        content = data.read_bytes() if isinstance(data, Path) else bytes(memoryview(data).cast("B"))
        self.counts.add(put=1)
        self._request("put", key, lambda: self._objects.write(self._path(key), content), writes=True)

    def head(self, key: str) -> ObjectMeta:
        """Look an object up."""
        self.counts.add(head=1)
        return self._request("head", key, lambda: self._objects.meta(self._path(key)))

    def list(self, prefix: str) -> list[ObjectMeta]:
        """List objects."""
        self.counts.add(list=1)
        folder = f"{prefix.rstrip('/')}/" if prefix.strip("/") else ""
        return self._request("list", prefix, lambda: self._objects.below(folder))

    def list_names(self, beginning: str) -> tuple[str, ...]:
        """List what lies directly below the root."""
        found = self._request("names", beginning, lambda: self._objects.below(beginning))
        return tuple(sorted({meta.key.split("/", 1)[0] for meta in found}))

    def delete(self, keys: Iterable[str]) -> None:
        """Delete objects."""
        paths = [self._path(key) for key in keys]
        if not paths:
            return
        self.counts.add(delete=len(paths))
        objects = self._objects
        chance = objects.faults.half_delete
        part = len(paths)
        if chance and len(paths) > 1 and objects.random.random() < chance:
            part = objects.random.randrange(len(paths))

        def remove() -> None:
            for path in paths[:part]:
                objects.remove(path)
            if part < len(paths):
                raise StorageTransient(f"delete {paths[part]!r}: 500 Internal Error", key=paths[part])

        named = paths[0] if len(paths) == 1 else f"{paths[0]} and {len(paths) - 1} more"
        self._request("delete", named, remove, writes=True)

    def move(self, source: str, target: str) -> None:
        """Nothing that is simulated moves objects."""
        raise NotImplementedError

    def check_writable(self) -> datetime:
        """Return the store's clock."""
        try:
            return self._request("probe", "_probe", lambda: EPOCH + timedelta(seconds=self._objects.world.now_s))
        except ApiaryError as error:
            raise StorageUnreachable(f"the storage root {self.url} cannot be used: {error.message}") from error

    def _create(self, key: str, data: bytes) -> None:
        self.counts.add(put=1)
        self._request("create", key, lambda: self._objects.write_new(self._path(key), data), writes=True)

    def _fetch_spans(self, key: str, spans: Sequence[tuple[int, int]]) -> Sequence[memoryview]:
        self.counts.add(get=len(spans))
        data = self._request("ranges", key, lambda: self._objects.read(self._path(key)))
        last_start, last_end = spans[-1]
        if last_end > len(data):
            raise self._too_short(key, last_start, last_end - last_start, len(data))
        return [memoryview(data)[start:end] for start, end in spans]

    # -- one request --------------------------------------------------------------------------------------------------

    def _request(self, verb: str, key: str, effect: Callable[[], _T], *, writes: bool = False) -> _T:
        """Make a request: it takes a while, has its effect at some moment of it, and may fail before or after."""
        process, objects = self._process, self._objects
        process.check()
        faults, random, world = objects.faults, objects.random, objects.world
        # One draw decides: most requests meet no fault, and drawing is what a request costs most.
        way_s = random.random() * faults.latency_s
        if faults.slow and random.random() < faults.slow:
            way_s += random.random() * faults.slow_s
        fate = "lost request" if process.cut_off_until_s > world.now_s else self._fate(verb, writes)
        who = process.name
        try:
            process.sleep(way_s)
        except Killed:
            if writes and fate == "" and random.random() < 0.5:
                # It was under way: it may still arrive.
                world.at(world.now_s + way_s, lambda: _silently(effect))
            raise
        if fate == "lost request":
            world.note(who, f"{verb} {key}: lost")
            raise StorageTransient(f"{verb} {key!r} in {self.url}: 503 Slow Down", key=key)
        if fate == "late":
            world.at(world.now_s + random.random() * faults.late_s, lambda: self._arrive(verb, key, effect))
            world.note(who, f"{verb} {key}: late")
            raise StorageTransient(f"{verb} {key!r} in {self.url}: timed out", key=key)
        try:
            result = effect()
        except ApiaryError as error:
            world.note(who, f"{verb} {key}: {error.code}")
            raise
        world.note(who, f"{verb} {key}{_shown(result)}{': reply lost' if fate else ''}")
        if fate == "lost reply":
            process.sleep(random.random() * faults.latency_s)
            if verb == "create" and random.random() < 0.5:
                # The client has sent it again by itself, and met its own object.
                raise ObjectExists(f"{verb} {key!r} in {self.url}: it is there", key=key)
            raise StorageTransient(f"{verb} {key!r} in {self.url}: connection reset", key=key)
        if random.random() < 0.1:
            process.sleep(way_s)
        return result

    def _fate(self, verb: str, writes: bool) -> str:
        objects = self._objects
        faults, random = objects.faults, objects.random
        if objects.failing_until_s > objects.world.now_s and random.random() < objects.failing_chance:
            return "lost request"
        if not faults.fails or (faults.only_creates and verb != "create"):
            return ""
        drawn = random.random()
        if drawn < faults.lost_request:
            return "lost request"
        drawn -= faults.lost_request
        if writes and drawn < faults.lost_reply:
            return "lost reply"
        drawn -= faults.lost_reply
        return "late" if writes and drawn < faults.late else ""

    def _arrive(self, verb: str, key: str, effect: Callable[[], object]) -> None:
        self._objects.world.note(self._process.name, f"{verb} {key}: arrives")
        _silently(effect)


def _silently(effect: Callable[[], object]) -> None:
    """Have an effect that nobody hears of any more."""
    with suppress(ApiaryError):
        effect()


def _shown(result: object) -> str:
    if isinstance(result, bytes):
        return f" -> {len(result)} bytes"
    return f" -> {len(result)}" if isinstance(result, list) else ""
