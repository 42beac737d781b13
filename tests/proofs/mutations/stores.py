"""Mutations of the stores on this machine: what is durable when, in which order, and who holds what."""

from __future__ import annotations

from tests.proofs.mutations.mutation import in_file

_contract = in_file("store/contract.py", "tests.store.disk.test_store")
_staged_file = in_file(
    "store/disk/staging_area.py",
    "tests.store.disk.test_staged_file",
    "tests.store.disk.test_store",
    "tests.store.disk.test_committer",
)
_changes = in_file("store/disk/changes.py", "tests.store.disk.test_store", "tests.store.disk.test_committer")
_committer = in_file("store/disk/committer.py", "tests.store.disk.test_committer", "tests.store.disk.test_replay")
_volume = in_file("store/disk/volume.py", "tests.store.disk.test_committer", "tests.store.disk.test_replay")
_journal = in_file("store/disk/journal.py", "tests.store.disk.test_committer")
_shared_journal = in_file(
    "store/disk/shared_journal.py", "tests.store.disk.test_committer", "tests.store.disk.test_replay"
)
_doubt = in_file("store/disk/epoch.py", "tests.store.simulation.test_histories.HistoriesTest")
_failed_sync = in_file("store/disk/shared_journal.py", "tests.store.simulation.test_histories.HistoriesTest")
_replay = in_file("store/disk/replay.py", "tests.store.disk.test_replay", "tests.store.disk.test_committer")
_records = in_file("store/disk/records.py", "tests.store.disk.test_records")
_file_system = in_file("store/disk/file_system.py", "tests.store.disk.test_file_system")
_staging_area = in_file("store/disk/staging_area.py", "tests.store.disk.test_store", "tests.store.disk.test_replay")
_blobs = in_file("store/disk/blobs.py", "tests.store.disk.test_blobs")
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
    _changes("failed-commit-takes-back-an-older-object", "self._is_new = not exists", "self._is_new = True"),
    _changes("name-of-an-object-is-not-synced", "self._directories.sync(self._shard, directory)", "pass"),
    _changes(
        "removal-is-not-synced",
        "            self._system.fsync(directory)\n            if not self._system.fstat",
        "            if not self._system.fstat",
    ),
    _changes(
        "removal-from-a-missing-directory-is-not-synced",
        'sync(self._shard.rpartition("/")[0], system=self._system)\n            return',
        "pass\n            return",
    ),
    _changes(
        "removed-object-is-not-found-without-a-sync",
        "        if not self._is_removed:\n            raise NotFound(name=self._name)\n",
        "",
    ),
    _changes("name-comes-before-the-sync-of-the-bytes", "            self._file.sync()\n", ""),
    _changes(
        "existing-object-is-replaced-in-spite-of-the-journal",
        "            raise AlreadyExists(self._name)\n        self._give_name()",
        "            pass\n        self._give_name()",
    ),
    _volume("file-system-that-failed-is-not-noticed", "                    self.check_changes()\n", ""),
    _volume("failed-change-is-not-taken-back", "                    change.take_back()\n", ""),
    _volume("large-object-is-not-noted", "                    self._note(change.path)\n", ""),
    _volume("change-without-a-record-locks-no-path", "self._share().locked(path)", "contextlib.nullcontext()"),
    # The journal.
    _journal("group-commit-does-not-sync", "            self._system.fdatasync(self.descriptor)\n", ""),
    _journal("failed-segment-is-written-again", "            self.is_broken = True\n", ""),
    _journal("failed-group-is-not-void", "            if self._failed:\n                self._void_failed()\n", ""),
    _journal("failed-void-is-forgotten", "for number in self._failed]", "for number in self._failed[:0]]"),
    _journal(
        "segment-is-not-written-from-its-beginning", "        self._position = 0\n\n\nclass", "        pass\n\n\nclass"
    ),
    _committer(
        "change-is-applied-before-its-record",
        "        journal, sequence = self._append(",
        "        [change.apply() for change, _ in pending]\n        journal, sequence = self._append(",
    ),
    _committer(
        "change-that-failed-behind-its-record-is-not-void",
        "                journal.append([each.record for each in voids])\n",
        "                pass\n",
    ),
    _committer(
        "root-lost-behind-the-record-is-not-noticed", "                if lost is not None:", "                if 0:"
    ),
    _committer(
        "segment-is-written-again-before-it-is-covered", "in waiting if each.time <= covered]", "in waiting if covered]"
    ),
    _committer(
        "segment-is-written-again-behind-a-failed-checkpoint",
        "                self._failure = error\n",
        "                self._failure = error\n                [each.free.put(each) for each in waiting]\n",
    ),
    _committer("locked-path-is-changed", "not file.try_lock(change.path)", "not change.path"),
    _committer("path-stays-locked", "self._epoch_file.unlock_paths()", "pass"),
    _committer("full-disk-removes-nothing", "error.errno not in DISK_FULL:", "error.errno:"),
    _committer(
        "removal-on-a-full-disk-is-not-synced",
        "                change.commit_alone()\n            self._shared.checkpoint()\n",
        "                change.commit_alone()\n",
    ),
    _shared_journal("marks-of-dead-processes-count", "if token in living}", "}"),
    _shared_journal(
        "checkpoint-covers-what-others-have-not-applied",
        "file.save(Checkpoint(time, marks), epoch)",
        "file.save(Checkpoint(time, {}), epoch)",
    ),
    _shared_journal("checkpoint-syncs-nothing", "            self._sync(epoch, file)\n", ""),
    _shared_journal("failed-sync-makes-no-file-anew", "        self._replay().remake(records, self.locked)\n", ""),
    _shared_journal("files-are-made-anew-at-each-checkpoint", "        self._is_doubted = False\n", ""),
    _shared_journal("failed-sync-is-forgotten-behind-its-checkpoint", "            self._has_failed = True\n", ""),
    _doubt("failed-sync-of-a-dead-process-is-forgotten", "return _IN_DOUBT in (", "return None in ("),
    _failed_sync(
        "failed-sync-of-a-replay-is-forgotten",
        "        file.begin_doubt()\n        # What the journals",
        "        # What the journals",
    ),
    _replay("last-record-of-an-object-does-not-count", "former.time <= record.time", "former.time > record.time"),
    _replay("damaged-journal-is-replayed", "if missing is not None:", "if 0:"),
    _replay("damaged-epoch-is-taken-for-a-new-store", "if any(map(has_groups, segments)):", "if 0:"),
    _replay("removed-object-comes-back", "                changed += self._remove(full)\n", "                pass\n"),
    _replay("removed-object-is-made-anew", "                    if self._is_there(full):", "                    if 1:"),
    _records("group-of-another-epoch-counts", "return body if epoch == self.epoch and", "return body if"),
    _records("group-of-another-journal-counts", "person=self.token.encode()", 'person=b""'),
    _records("void-record-counts", "and voids.isdisjoint(", "and not voids.issuperset("),
    _records("gap-at-the-beginning-is-not-noticed", "sequence - (needed[0].previous > covered)", "sequence"),
    _records("covered-record-is-replayed", "and record.time > covered", "and record.time > 0"),
    _records("group-overwrites-a-synced-block", "-(_HEAD_SIZE + len(body)) % BLOCK", "-(_HEAD_SIZE + len(body)) % 512"),
    _file_system("read-only-file-system-is-synced", "f_flag & os.ST_RDONLY:", "f_flag & os.ST_NOSUID & os.ST_RDONLY:"),
    _file_system("old-kernel-has-journals", ">= _REPORTS_ERRORS and", ">= (0,) and"),
    _staging_area(
        "sweep-removes-journals-without-a-checkpoint", "            make_superfluous()\n", "            pass\n"
    ),
    _staging_area(
        "sweep-removes-live-uploads",
        "system) if try_lock(descriptor, flock=system.flock) else 0",
        "system)",
        missed="a sweep asks before, too, which owners are dead; a simulated history finds it where neither does",
    ),
    _blobs("cache-ignores-what-is-on-disk", "if blob.is_of(self._lstat(path)):", "if self._lstat(path):"),
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
        "            if not try_lock(descriptor, flock=self._system.flock):\n                return True\n",
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
    _write_lock(
        "write-lock-is-shared",
        "lock(self._descriptor)\n        self._check",
        "lock(self._descriptor, 1)\n        self._check",
    ),
)
