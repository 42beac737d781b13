"""Mutations of the stores on this machine: what is durable when, in which order, and who holds what."""

from __future__ import annotations

from tests.proofs.mutations.mutation import in_file

_contract = in_file("store/contract.py", "tests.store.disk.test_store")
_staged_file = in_file("store/disk/staged_file.py", "tests.store.disk.test_staged_file", "tests.store.disk.test_store")
_changes = in_file("store/disk/changes.py", "tests.store.disk.test_store", "tests.store.disk.test_committer")
_committer = in_file("store/disk/committer.py", "tests.store.disk.test_committer", "tests.store.disk.test_store")
_file_system = in_file("store/disk/file_system.py", "tests.store.disk.test_file_system")
_disk_store = in_file("store/disk/store.py", "tests.store.disk.test_store")
_staging_area = in_file("store/disk/staging_area.py", "tests.store.disk.test_store")
_small_blobs = in_file("store/disk/small_blobs.py", "tests.store.disk.test_small_blobs")
_layout = in_file("store/layout.py", "tests.store.test_layout", "tests.api.test_repositories")

_drops = in_file("store/drops.py", "tests.store.test_drops")
_guess_limit = in_file("store/guess_limit.py", "tests.store.test_drops")
_wall_clock = in_file("store/wall_clock.py", "tests.store.test_drops")
_passwords = in_file("store/passwords.py", "tests.store.test_drops", "tests.api.test_drops.PasswordTest")
_deferred = in_file("store/deferred_writes.py", "tests.store.test_drops", "tests.api.test_drops.BrokenDatabaseTest")
_batch_writer = in_file("store/batch_writer.py", "tests.store.test_batch_writer")
_owner_locks = in_file(
    "store/owner_locks.py", "tests.store.test_owner_locks", "tests.store.test_drops", "tests.store.disk.test_store"
)
_locks = in_file("store/locks.py", "tests.store.test_locks", "tests.api.test_lfs")
_kv = in_file("store/kv.py", "tests.store.test_kv")
_group_commit = in_file("store/sqlite/group_commit.py", "tests.store.test_kv", "tests.store.sqlite.test_write_lock")
_write_lock = in_file("store/sqlite/write_lock.py", "tests.store.sqlite.test_write_lock", "tests.store.test_kv")

MUTATIONS = (
    _contract("object-of-the-maximum-size-is-refused", "and self.size > self._limit:", "and self.size >= self._limit:"),
    _contract("declared-maximum-size-is-refused", "is not None and size > limit:", "is not None and size >= limit:"),
    # The disk.
    _staged_file("bytes-of-an-upload-are-not-synced", "self._system.fsync(self._descriptor)", "pass"),
    _staged_file(
        "staging-survives-a-failed-sync",
        "and the next sync would succeed.\n            self.discard()\n",
        "and the next sync would succeed.\n",
    ),
    _staged_file("failed-commit-takes-back-an-older-object", "        if not self._is_new:\n            return\n", ""),
    _changes("name-of-an-object-is-not-synced", "self._volume.directories.sync(self._shard, directory)", "pass"),
    _changes("removal-is-not-synced", "                sync(path, system=self._system)\n", ""),
    _changes(
        "removed-object-is-not-found-without-a-sync",
        "        if not self._is_removed:\n            raise NotFound(name=self._name)\n",
        "",
    ),
    _committer(
        "name-comes-before-the-sync-of-the-bytes",
        "            self.sync()\n            while not self.is_complete:",
        "            while not self.is_complete:",
    ),
    _committer("file-system-that-failed-is-not-noticed", "self._check_changes()", "pass"),
    _committer("group-commit-does-not-sync", "            self._file_system.sync()\n", "            pass\n"),
    _committer(
        "object-of-a-round-has-two-leaders",
        "leaders.setdefault(change.stores, change) if change.stores else change",
        "change",
    ),
    _committer("upload-is-answered-after-its-first-step", "is_complete])", "is_complete or change.stores])"),
    _file_system("read-only-file-system-is-synced", "f_flag & os.ST_RDONLY:", "f_flag & os.ST_NOSUID & os.ST_RDONLY:"),
    _file_system("old-kernel-syncs-together", "or _type(system, root) not in", "and _type(system, root) not in"),
    _disk_store("removal-by-a-thread-is-not-synced", "self._system.fsync(directory)", "pass"),
    _staging_area("sweep-removes-live-uploads", "system) if lock_if_dead(descriptor, system=system) else 0", "system)"),
    _small_blobs("cache-ignores-what-is-on-disk", "if blob.is_of(self._lstat(path)):", "if self._lstat(path):"),
    _layout("repository-of-128-characters-is-refused", "{1,128}", "{1,127}"),
    # Drops.
    _drops("drop-that-is-claimed-is-shown-as-available", "state != AVAILABLE or age >", "state != AVAILABLE and age >"),
    _drops("drop-breaks-once-too-often", "breaks & {_BREAKS_MASK} >=", "breaks & {_BREAKS_MASK} >"),
    _drops("claimed-drop-is-claimed-again", "= ?{transaction.skip_locked}", ">= ?{transaction.skip_locked}"),
    _drops("claim-of-a-dead-process-lasts", "return owner is not None and self._owners.is_alive(owner)", "return True"),
    _drops("bytes-of-a-fetched-drop-stay", 'epoch(), owner = NULL, removal = epoch()"', 'epoch(), owner = NULL"'),
    _drops("410-turns-into-404-at-once", "GONE, now - _TOMBSTONE_TTL, _ROWS_PER_STEP", "GONE, now, _ROWS_PER_STEP"),
    _drops(
        "drop-that-was-reaped-is-published",
        "            if not transaction.execute(statement, values).rowcount:\n                # Another process",
        "            if transaction.execute(statement, values).rowcount < 0:\n                # Another process",
    ),
    _drops("wrong-password-is-not-recorded", "guess_limit.settle_wrong, guess=", "guess_limit.settle_right, guess="),
    _guess_limit("eleven-wrong-passwords", '< {_MAX_GUESSES}"""', '<= {_MAX_GUESSES}"""'),
    _guess_limit("guesses-at-the-same-time-are-unlimited", "FROM judging WHERE id =", "FROM judging WHERE 0 AND id ="),
    _guess_limit("retry-after-counts-from-the-last-guess", "ceil(_PERIOD - ages[-1])", "ceil(_PERIOD - ages[0])"),
    _wall_clock("clock-that-is-ahead-expires-all", "and now - seen > _MIN_JUMP and", "and seen - now > _MIN_JUMP and"),
    _passwords("passwords-share-a-salt", "salt = secrets.token_bytes(_SALT_SIZE)", "salt = bytes(_SALT_SIZE)"),
    _passwords(
        "one-client-fills-the-password-queue",
        "self._jobs.count(client) >= _MAX_QUEUED_PER_CLIENT or len(self._jobs) >= _MAX_QUEUED_JOBS",
        "len(self._jobs) >= _MAX_QUEUED_JOBS",
    ),
    _deferred("change-that-failed-is-lost", "                self._failed.append(entry)\n", "                pass\n"),
    _batch_writer("blocked-writer-refuses-nothing", ">= self._timeout:", ">= self._timeout + math.inf:"),
    _batch_writer("closed-writer-leaves-jobs", "if not self._jobs and", "if self._closed or not self._jobs and"),
    _owner_locks("lock-of-a-removed-file-counts", "fstat(descriptor).st_nlink:", "fstat(descriptor).st_nlink >= 0:"),
    _owner_locks(
        "live-owner-is-taken-for-dead",
        "            if not lock_if_dead(descriptor, system=self._system):\n                return True\n",
        "",
    ),
    _locks("page-of-locks-repeats-its-last", "id > ? ORDER BY id LIMIT ?", "id >= ? ORDER BY id LIMIT ?"),
    _locks("lock-of-another-repository-is-released", "WHERE repository = ? AND id", "WHERE repository IS NOT ? AND id"),
    # Keys and values.
    _kv("commit-is-not-synced", '"FULL" if commits else "NORMAL"', '"NORMAL" if commits else "NORMAL"'),
    _kv("large-commit-is-not-synced", 'self._sync_commits("FULL")', 'self._sync_commits("NORMAL")'),
    _kv("first-queued-value-counts", "SELECT key, value, max(id)", "SELECT key, value, min(id)"),
    _kv("commit-is-not-counted", "self._write_lock.committing() if commits else contextlib.", "contextlib."),
    _kv("deleted-key-counts-as-existing", "(existing.discard if is_deleted else existing.add)", "existing.add"),
    _kv("visible-pairs-are-overtaken", "_TO_STAGED if self._is_visible else _TO_PAIRS", "_TO_PAIRS"),
    _group_commit(
        "log-is-not-in-doubt-during-a-write",
        "            self._write_lock.begin_writing()\n            yield connection",
        "            yield connection",
    ),
    _group_commit(
        "doubtful-log-is-written",
        "        if self._write_lock.is_doubtful:\n            self._rewrite_log(connection)\n",
        "",
    ),
    _write_lock("write-lock-is-shared", "(self._descriptor, fcntl.LOCK_EX)", "(self._descriptor, fcntl.LOCK_SH)"),
)
