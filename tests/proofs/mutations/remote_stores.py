"""Mutations of the stores on other machines, and of resumable uploads: lost answers, retries, leases, handovers."""

from __future__ import annotations

from tests.proofs.mutations.mutation import in_file

_memcached_blob = in_file("store/memcached/blob.py", "tests.store.memcached.test_faults")
_memcached_staging = in_file(
    "store/memcached/staging.py",
    "tests.store.memcached.test_store.TimeToLiveTest",
    "tests.store.memcached.test_faults",
    "tests.store.memcached.test_crashes",
)
_memcached_store = in_file(
    "store/memcached/store.py", "tests.store.memcached.test_faults", "tests.store.memcached.test_crashes"
)
_buffers = in_file("store/memcached/buffers.py", "tests.store.memcached.test_buffers")
_manifest = in_file("store/memcached/manifest.py", "tests.store.memcached.test_manifest")

_answers = in_file(
    "store/s3/answers.py",
    "tests.store.s3.test_answers",
    "tests.store.s3.test_store.PartsTest",
    "tests.test_s3_faults.MissingBucketTest",
)
_retries = in_file("store/s3/retries.py", "tests.store.s3.test_retries", "tests.test_s3_faults.UploadTest")
_s3_multipart = in_file("store/s3/multipart.py", "tests.store.s3.test_multipart", "tests.store.s3.test_store.PartsTest")
_streaming = in_file("store/s3/streaming.py", "tests.store.s3.test_store.UploadTest")
_signing = in_file("store/s3/signing.py", "tests.store.s3.test_signing")
_s3_listing = in_file("store/s3/listing.py", "tests.store.s3.test_listing", "tests.store.s3.test_store.KeysTest")

_lease = in_file("store/postgresql/lease.py", "tests.store.postgresql.test_drops", "tests.daemon.test_janitor")
_transactions = in_file("store/postgresql/transactions.py", "tests.store.postgresql.test_drops")
_postgresql_kv = in_file("store/postgresql/kv.py", "tests.store.postgresql.test_kv")

_upload_file = in_file("store/uploads/upload_file.py", "tests.store.uploads.test_uploads", "tests.api.test_uploads")
_uploads = in_file(
    "store/uploads/uploads.py",
    "tests.store.uploads.test_uploads",
    "tests.api.test_uploads",
    "tests.store.uploads.test_remote_storage",
)
_reception = in_file("store/uploads/reception.py", "tests.store.uploads.test_uploads", "tests.api.test_uploads")
_local_storage = in_file("store/uploads/local_storage.py", "tests.store.uploads.test_uploads", "tests.api.test_uploads")
_lock_files = in_file("store/uploads/lock_files.py", "tests.store.uploads.test_uploads", "tests.api.test_uploads")
_registry = in_file("store/uploads/registry.py", "tests.store.uploads.test_uploads", "tests.api.test_uploads")
_segments = in_file("store/uploads/segments.py", "tests.store.uploads.test_remote_storage")

MUTATIONS = (
    # memcached.
    _memcached_blob(
        "changed-chunk-is-sent",
        "if hasher.finish() != manifest.digest:",
        "if len(hasher.finish()) != len(manifest.digest):",
    ),
    _memcached_blob("lost-chunk-is-skipped", "if data is None:", "if data is None and not start:"),
    _memcached_staging("chunks-are-not-checked-before-the-manifest", "self._require_chunks(STAGING_TTL)", "pass"),
    _memcached_staging("chunks-are-deleted-after-a-lost-reply", "self._hidden = False\n        try:", "try:"),
    _memcached_staging(
        "chunks-are-permanent-before-their-manifest",
        "{key: ttl, **dict.fromkeys(chunks, ttl and ttl + _CHUNK_MARGIN)}",
        "{**dict.fromkeys(chunks, ttl and ttl + _CHUNK_MARGIN), key: ttl}",
    ),
    _memcached_staging("chunks-expire-before-their-manifest", "STAGING_TTL -", "STAGING_TTL +"),
    _memcached_staging(
        "damaged-object-is-left-in-place", "            and is_whole(self._pool, present, self._threads)\n", ""
    ),
    _memcached_store(
        "removed-object-is-served",
        "        if manifest.is_removed:\n            raise NotFound(name=name or oid)\n",
        "",
    ),
    _memcached_store(
        "manifest-of-another-object-is-served",
        "if name is None and _is_digest(oid) and manifest.digest != oid:",
        "if name is None and _is_digest(oid) and len(manifest.digest) != len(oid):",
    ),
    _buffers("object-larger-than-the-memory-is-never-served", "self._free or self._free == self._size", "self._free"),
    _buffers(
        "caller-that-gave-up-blocks-the-queue",
        "            # The next in the queue may fit too.\n            self._changed.notify_all()\n",
        "            if is_served:\n                self._changed.notify_all()\n",
    ),
    _manifest("manifest-is-not-checked", "_MAGIC) + _CHECK_SIZE] != _MAGIC + _check(key, body)", "_MAGIC)] != _MAGIC"),
    # S3.
    _answers("missing-bucket-is-a-missing-object", "404 and (code in _MISSING_CODES or not answer.body):", "404:"),
    _answers("completion-without-its-end-counts", "_name(_parsed(answer))", "answer.body and _name(_parsed(answer))"),
    _answers("error-after-200-counts-as-success", "    if answer.code:\n        raise error_of(answer)\n", ""),
    _retries("silent-store-is-asked-again", "if is_silent or self._clock.now() + wait", "if self._clock.now() + wait"),
    _retries("busy-store-is-not-asked-again", "now() + wait >= until:", "now() + wait < until:"),
    _s3_multipart(
        "bytes-that-changed-on-disk-are-completed",
        "if whole.hexdigest() != sha256:",
        "if len(whole.hexdigest()) != len(sha256):",
    ),
    _s3_multipart("sweep-aborts-live-uploads", "if each.initiated < now -", "if each.initiated < now +"),
    _streaming("streamed-upload-is-not-aborted", "            upload.abort()\n", "            upload.finish(b'')\n"),
    _signing("white-space-in-a-signed-field-is-kept", "' '.join(value.split())", "value"),
    _s3_listing("page-repeats-its-first-name", "if name is not None and name > after:", "if name is not None:"),
    _s3_listing("listing-ends-with-the-first-page", "if page.is_last:\n                return", "return"),
    # PostgreSQL.
    _lease("stopped-process-keeps-the-lease", "own and not is_over and not _is_free", "own and not _is_free"),
    _transactions("dead-session-is-alive", "return not is_free", "return True"),
    _transactions(
        "session-lock-is-not-taken", '        connection.execute("SELECT pg_advisory_lock(%s)", (number,))\n', ""
    ),
    _transactions(
        "simultaneous-guesses-are-not-serial",
        '        self._connection.execute("SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (name,))',
        "        pass",
    ),
    _postgresql_kv("first-queued-value-counts-in-postgresql", "ORDER BY digest, id DESC", "ORDER BY digest, id"),
    _postgresql_kv(
        "commits-of-two-daemons-overlap",
        "            connection.execute(_LOCK)\n",
        "",
        missed="two daemons must commit at the same moment, which no test stages for certain",
    ),
    # Resumable uploads.
    _upload_file("offset-is-promised-without-a-sync", "            os.fdatasync(self._descriptor)\n", ""),
    _upload_file(
        "offset-is-promised-before-the-sync",
        "with self._cut_if_failed():\n            os.fdatasync(self._descriptor)\n",
        "self._hold.change(change)\n        with self._cut_if_failed():\n            os.fdatasync(self._descriptor)\n",
    ),
    _upload_file(
        "name-of-an-upload-is-not-synced",
        "                self._volume.directories.sync(os.path.dirname(self.path), directory)\n",
        "                pass\n",
    ),
    _upload_file("bytes-of-a-failed-sync-stay", "self._cut(self._durable)", "self._cut(self.size)"),
    _uploads("forgotten-process-publishes-the-object", "            reception.held.hold.confirm()\n", ""),
    _uploads(
        "upload-that-went-on-is-expired",
        "            if not self._registry.is_expired(id_):\n                return False\n",
        "",
    ),
    _uploads("upload-above-the-maximum-is-created", "and draft.length > limit:", "and draft.length > limit + 1:"),
    _reception("piece-may-overlap", "if offset != self._recorded:", "if offset > self._recorded:"),
    _reception("larger-of-two-limits-counts", "if limits and size > min(limits):", "if limits and size > max(limits):"),
    _reception("checksum-of-a-piece-is-not-checked", "self._checksum.check()", "pass"),
    _reception("refused-piece-leaves-its-length", "changes.append(self._registry.untelling(self.upload.id))", "pass"),
    _lock_files("former-holder-may-write", "generation != self._generation:", "generation < self._generation:"),
    _local_storage(
        "holder-that-makes-the-object-is-taken-over",
        "if is_alive and (not is_silent or holder.tail is Tail.NONE):",
        "if is_alive and not is_silent:",
    ),
    _local_storage(
        "tail-of-a-dead-process-counts", "has_tail = is_alive and holder.tail is", "has_tail = holder.tail is"
    ),
    _registry("expired-upload-is-continued", "expires <= {JUDGED_TIME}, {_COLUMNS}", "expires <= 0, {_COLUMNS}"),
    _segments("missing-segment-is-overlooked", "        if end != recorded:\n", "        if end > recorded:\n"),
    _segments(
        "small-segment-goes-before-it-is-replaced", "small is not None and small not in self._segments:", "small:"
    ),
    _segments("segment-written-anew-cannot-be-taken-back", "insertion(self._id, before), ", ""),
    _segments("leftovers-of-crashed-requests-stay", " and self._hold.is_fresh", ""),
)
