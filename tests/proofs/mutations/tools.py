"""Mutations of the check, the client, the migration and the daemon."""

from __future__ import annotations

from tests.proofs.mutations.mutation import in_file

_check_disk = in_file("check/disk.py", "tests.check.test_disk")
_store_check = in_file("check/store_check.py", "tests.check.test_disk")
_quarantine = in_file("store/disk/quarantine.py", "tests.check.test_disk", "tests.check.test_prune")
_prune = in_file("check/prune.py", "tests.check.test_prune")
_throttle = in_file("check/throttle.py", "tests.check.test_runner")
_check_memcached = in_file("check/memcached.py", "tests.check.test_memcached")

_download = in_file("client/download.py", "tests.client.test_answers", "tests.client.test_client")
_retries = in_file("client/retries.py", "tests.client.test_parts", "tests.client.test_answers")
_saving = in_file("client/saving.py", "tests.client.test_client", "tests.client.test_parts")
_upload_state = in_file("client/upload_state.py", "tests.client.test_parts")
_refusals = in_file("client/refusals.py", "tests.client.test_refusals", "tests.client.test_answers")

_passes = in_file("migration/passes.py", "tests.migration.test_passes", "tests.daemon.test_migrate.ObjectsTest")
_transfer = in_file("migration/transfer.py", "tests.migration.test_passes", "tests.daemon.test_migrate.ObjectsTest")
_migration = in_file("migration/migration.py", "tests.daemon.test_migrate.ObjectsTest")
_databases = in_file(
    "migration/databases.py", "tests.daemon.test_migrate.DatabasesTest", "tests.daemon.test_migrate.DropsTest"
)

_drop_tables = in_file("store/drop_tables.py", "tests.daemon.test_migrate.DropsTest")

_watchdog = in_file("daemon/watchdog.py", "tests.daemon.test_watchdog")
_cleanup_lock = in_file("store/cleanup_lock.py", "tests.daemon.test_janitor")
_tokens_file = in_file("daemon/tokens_file.py", "tests.daemon.test_tokens_file")
_sockets = in_file("daemon/sockets.py", "tests.daemon.test_activation", "tests.daemon.test_serve")
_supervisor = in_file("daemon/supervisor.py", "tests.daemon.test_supervisor", "tests.daemon.test_watchdog")

MUTATIONS = (
    # The check.
    _store_check("drop-that-was-fetched-meanwhile-is-missing", "size) and registry.needs_bytes(id_):", "size):"),
    _store_check("drop-that-was-removed-meanwhile-is-orphaned", "checker.exists(path, grace=rows.grace)", "path"),
    _check_disk("check-without-repair-removes-stagings", "if repair and names:", "if names:"),
    _store_check(
        "object-that-was-healed-meanwhile-is-damaged",
        "        if not found.is_in_place():\n            return None\n",
        "",
    ),
    _check_disk("symbolic-link-is-followed", "O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC", "O_NONBLOCK | os.O_CLOEXEC"),
    _quarantine(
        "old-name-is-removed-durably-before-the-new-one",
        "            self._directories.sync(into, directory)\n        finally:",
        '            sync(os.path.dirname(f"{self._root}/{path}"))\n'
        "            self._directories.sync(into, directory)\n        finally:",
    ),
    _quarantine("move-to-the-quarantine-is-not-synced", '        sync(os.path.dirname(f"{self._root}/{path}"))\n', ""),
    _quarantine("whole-upload-is-quarantined", "        with self._volume.changing(path):\n", "        if True:\n"),
    _prune("object-of-the-very-second-is-pruned", "status.modified < self._before", "status.modified <= self._before"),
    _prune("line-without-an-oid-is-skipped", "if not _OID.fullmatch(words[0]):", "if not _OID.match(words[0]):"),
    _throttle("thread-may-catch-up-for-ever", "max(self._paid_until, now - _MAX_LAG) +", "self._paid_until +"),
    _throttle("threads-do-not-share-the-limit", "max(self._paid_until, now - _MAX_LAG) + size", "now + size"),
    _check_memcached(
        "orphans-are-reported-after-one-grace-period",
        "                return\n            self._throttle.sleep(self._grace)\n",
        "                return\n",
    ),
    _check_memcached(
        "object-that-was-replaced-meanwhile-is-damaged",
        "return again is not None and again.version == found.version",
        "return again is not None",
    ),
    # The client.
    _download("digest-of-a-download-is-not-checked", "if self._expected not in found:", "if not found:"),
    _download("range-from-elsewhere-is-accepted", "is None or int(matched.group(2)) != start:", "is None:"),
    _retries("one-attempt-too-many", "self.failed >= self._retries.limit", "self.failed > self._retries.limit"),
    _retries("server-that-asks-for-two-minutes-is-not-waited-for", "> _MAX_RETRY_AFTER", ">= _MAX_RETRY_AFTER"),
    _retries("progress-does-not-count-anew", "        self.failed = 0\n\n    def wait", "        pass\n\n    def wait"),
    _saving(
        "download-is-named-before-it-is-synced",
        "        part.sync()\n        part.place(target, overwrite=overwrite)\n",
        "        part.place(target, overwrite=overwrite)\n        part.sync()\n",
    ),
    _saving("part-with-another-name-is-written", "if status.st_nlink == 1:", "if status.st_nlink:"),
    _saving("foreign-part-is-continued", "(status.st_mode) and status.st_uid == os.geteuid()", "(status.st_mode)"),
    _upload_state("state-in-a-directory-of-others-is-read", "st_uid != os.geteuid() or", "st_uid != os.geteuid() and"),
    _upload_state("two-processes-continue-one-upload", "        if try_lock(descriptor) and", "        if"),
    _refusals(
        "error-of-another-program-is-the-daemons",
        'if not isinstance(value.get("error"), str):',
        'if "error" not in value:',
    ),
    # The migration.
    _passes("object-of-another-size-is-not-copied", "not None and status.size == size else None", "not None else None"),
    _passes(
        "object-that-came-meanwhile-is-deleted",
        "if not transfer.patiently(lambda: _is_gone(pair.source, name)):\n            return\n        if self._delete:",
        "if self._delete:",
    ),
    _transfer("copied-bytes-are-not-verified", "target.stage(blob.size, expected=expected)", "target.stage(blob.size)"),
    _transfer("full-target-is-tried-again", "if pause is None or not _is_unavailable(error):", "if pause is None:"),
    _migration("empty-source-deletes-all-of-the-target", "if self._delete and self.", "if self._delete and not self."),
    _databases(
        "database-that-was-served-is-replaced",
        "            _require_unserved(group, writer)\n            writer.clear()\n",
        "            writer.clear()\n",
        missed="the check before the copy finds it; here it guards against a daemon that starts during the copy",
    ),
    _drop_tables("drop-without-bytes-is-copied", " and has_bytes(self.id):", ":"),
    _databases("drop-of-a-live-process-is-copied", "is not None and self._source", "is not None and not self._source"),
    # The daemon.
    _watchdog("worker-is-killed-after-a-stopped-machine", "_SILENCE_TIMEOUT / 2:", "_SILENCE_TIMEOUT * 2000:"),
    _watchdog("worker-under-a-debugger-is-killed", "        if tracer:\n", "        if tracer < 0:\n"),
    _watchdog(
        "worker-that-starts-has-the-time-of-a-silent-one",
        "_SILENCE_TIMEOUT if beat else _START_TIMEOUT",
        "_SILENCE_TIMEOUT",
    ),
    _cleanup_lock(
        "stopped-janitor-keeps-the-lock",
        "return not try_lock(lock) and abs(self._clock.date() - os.fstat(lock).st_mtime) < self._timeout",
        "return not try_lock(lock)",
    ),
    _tokens_file("token-may-be-named-anybody", "    if digest != _ANONYMOUS:\n        _check_not_anybody(name)\n", ""),
    _tokens_file("invalid-line-is-shown", "tokens file {path!r}: {error}", "tokens file {path!r}: {error}: {line}"),
    _sockets("sockets-of-another-process-are-taken-over", "isdecimal() or pid != str(os.getpid()):", "isdecimal():"),
    _sockets(
        "socket-of-a-live-daemon-is-removed",
        '    raise OSError(errno.EADDRINUSE, "another process listens there")',
        "    os.unlink(path)",
    ),
    _supervisor(
        "workers-that-fail-are-forked-without-a-pause",
        "_FIRST_FORK_PAUSE if is_steady else min(self._fork_pause * 2, _MAX_FORK_PAUSE)",
        "_FIRST_FORK_PAUSE",
    ),
    _supervisor("worker-that-does-not-drain-lives-on", "if now >= deadline:", "if now >= deadline + 3600:"),
    _supervisor("slot-of-a-dead-worker-is-not-released", "            self._monitor.release(dead.slot)\n", ""),
)
