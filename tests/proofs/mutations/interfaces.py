"""Mutations of the interfaces: bounds of the contract, scopes, and what a page shows."""

from __future__ import annotations

from tests.proofs.mutations.mutation import in_file

_files = in_file("api/files.py", "tests.api.test_files")
_objects = in_file("api/objects.py", "tests.api.test_files", "tests.api.test_repositories")
_forms = in_file("api/forms.py", "tests.api.test_files")
_listing = in_file("api/listing.py", "tests.api.test_repositories")
_backends = in_file("daemon/backend.py", "tests.api.test_drops")
_drops = in_file("api/drops.py", "tests.api.test_drops", "tests.api.test_tokens")
_drop_form = in_file("api/drop_form.py", "tests.api.test_drops.DropsTest", "tests.api.test_drops.PasswordTest")
_drop_pages = in_file("api/drop_pages.py", "tests.api.test_drop_pages")
_kv = in_file("api/kv.py", "tests.api.test_kv")
_payloads = in_file("api/payloads.py", "tests.api.test_kv")
_lfs = in_file("api/lfs.py", "tests.api.test_lfs")
_lfs_by_tus = in_file("api/lfs.py", "tests.test_uploads_daemon.BatchTest")
_uploads = in_file("api/uploads.py", "tests.api.test_uploads", "tests.api.test_tokens")
_operations = in_file("api/operations.py", "tests.api.test_operations")
_bounded_call = in_file("api/bounded_call.py", "tests.api.test_bounded_call")

MUTATIONS = (
    _files("first-of-two-hashes-counts", "if len(hashes) != 1 or not hashes[0]:", "if not hashes or not hashes[0]:"),
    _files("second-file-of-a-form-is-appended", "            self._whole = True\n", "            pass\n"),
    _objects("range-is-described-one-too-far", "bytes {start}-{stop - 1}/", "bytes {start}-{stop}/"),
    _objects("part-is-stored-as-a-whole", 'range" in request.fields', 'range" in request.fields and not request.size'),
    _objects("download-may-run-as-a-page", ', ("Content-Security-Policy", "sandbox"))', ")"),
    _objects(
        "removal-ignores-if-match",
        "            conditions.check_preconditions(request.fields, digest, blob.modified)\n",
        "",
    ),
    _objects(
        "stored-object-is-replaced-in-spite-of-if-none-match",
        "staging.commit(replace=not conditions.forbids_overwrite(request.fields))",
        "staging.commit()",
    ),
    _objects(
        "range-ignores-if-range",
        "if wanted is not None and conditions.if_range_holds(request.fields, found.tag, modified):",
        "if wanted is not None:",
    ),
    _forms("digest-of-a-form-is-not-checked", "        whole.check()\n", "        whole.digest()\n"),
    _forms("form-of-unknown-size-is-unlimited", "_check_size(received, limit)", "_check_size(len(piece), limit)"),
    _listing("listing-ends-after-a-page", "names = store.list(after, limit + 1)", "names = store.list(after, limit)"),
    _listing("limit-of-0-is-accepted", "not 1 <= int(text) <= _MAX_LIMIT", "not 0 <= int(text) <= _MAX_LIMIT"),
    _listing("limit-of-10000-is-refused", "not 1 <= int(text) <= _MAX_LIMIT", "not 1 <= int(text) < _MAX_LIMIT"),
    # Drops.
    _drops("safari-prefetch-takes-a-drop", '("sec-purpose", "purpose", "x-moz")', '("sec-purpose", "purpose")'),
    _drops("token-is-taken-for-a-password", "if not given and request.is_free:", "if not given:"),
    _drops("refusal-of-a-drop-is-stored-by-caches", "    response.fields += _NO_STORE\n", ""),
    _drops("proxy-sends-a-part-of-a-drop", '"" if _is_partial(request) else objects.', "objects."),
    _backends("drop-of-16-mib-and-a-byte-is-stored", "default=16 * 1024 * 1024,", "default=16 * 1024 * 1024 + 1,"),
    _drops("failed-upload-leaves-its-row", "                self._drops.retract(id_)\n", ""),
    _drops(
        "drop-without-its-bytes-stays-claimed",
        "            self._drops.give_back(claim)\n            raise\n\n    def _give_back_unused",
        "            raise\n\n    def _give_back_unused",
    ),
    _drop_form("password-of-1024-bytes-is-refused", "if size > _MAX_PASSWORD_SIZE:", "if size >= _MAX_PASSWORD_SIZE:"),
    _drop_form("name-of-255-bytes-is-refused", "if size > _MAX_NAME_SIZE:", "if size >= _MAX_NAME_SIZE:"),
    _drop_pages("landing-page-answers-200-to-a-wrong-password", "page, status=401, fields=", "page, fields="),
    _drop_pages("landing-page-of-a-locked-drop-lacks-retry-after", "VARIES + field_lines(*error.fields)", "VARIES"),
    _drop_pages("preview-consumes-a-drop", 'GET", "/drop/{id}", self.show,', 'GET", "/drop/{id}", self.fetch,'),
    # Keys and values.
    _kv("value-is-cached-during-a-commit", "        if commits % 2 == 0:\n", "        if commits >= 0:\n"),
    _kv(
        "empty-key-is-set",
        "key, value = parse_pair(body)\n        if not key:",
        "key, value = parse_pair(body)\n        if not value:",
    ),
    _kv("updated-key-answers-201", "Response(201 if is_new else 200, JSON, body)", "Response(201, JSON, body)"),
    _kv(
        "commits-are-read-after-the-value",
        "commits = self._keys.commits\n        key = _key(request)\n        body = _encode(key, self._keys.get(key))",
        "key = _key(request)\n        body = _encode(key, self._keys.get(key))\n        commits = self._keys.commits",
    ),
    _payloads("declared-mib-is-refused", "if (request.size or 0) > self.", "if (request.size or 0) >= self."),
    _payloads("received-mib-is-refused", "if len(body) + len(piece) > limit:", "if len(body) + len(piece) >= limit:"),
    _payloads("bodies-in-flight-are-not-released", "            self._size -= size\n", "            pass\n"),
    _payloads(
        "bodies-in-flight-are-unlimited",
        "size and self._size + size > self._max_in_flight",
        "size > self._max_in_flight",
    ),
    # Git LFS.
    _lfs("batch-for-upload-needs-read-alone", "WRITE if batch.operation == lfs.UPLOAD else READ", "READ"),
    _lfs("lock-of-another-is-released-without-force", "if is_foreign and not force", "if is_foreign and force is None"),
    _lfs("force-needs-no-delete-scope", "DELETE if is_foreign and force else WRITE", "WRITE"),
    _lfs("page-of-locks-skips-one", "str(found[-2].id)", "str(found[-1].id)"),
    _lfs("size-of-a-stored-object-is-not-compared", "if wanted.size == found.size:", "if wanted.size >= found.size:"),
    _lfs_by_tus("two-owners-share-an-upload", "owner, repository, oid, str(size)", "repository, oid, str(size)"),
    _lfs("missing-token-lacks-lfs-authenticate", "        response.fields += _LFS_AUTHENTICATE\n", "        pass\n"),
    # Resumable uploads.
    _uploads("any-token-continues-an-upload", "        self._require(request, upload.target)\n", ""),
    _uploads("token-without-write-terminates-an-upload", "request, WRITE, interface,", "request, 'read', interface,"),
    _uploads("length-is-told-twice", "if upload.length not in (None, length):", "if upload.length == 0 != length:"),
    _uploads("upload-that-failed-at-once-stays", "self._uploads.terminate(upload.id)", "pass"),
    _uploads("password-comes-back", 'metadata.pop("password", "")', 'metadata.get("password", "")'),
    # Operations.
    _operations("readiness-is-never-checked-again", "_clock.now() + _REUSE_TIME", "_clock.now() + 3600 * _REUSE_TIME"),
    _operations("readiness-shows-the-cause-to-all", "str(error), str", "str(error.__cause__ or error), str"),
    _bounded_call(
        "call-that-hangs-is-repeated",
        "            if self._running is None:\n",
        "            if self._running is None or self._running.late_at < self._clock.now():\n",
    ),
    _bounded_call("late-caller-waits-anew", "max(0.0, late_at - self._clock.now())", "self._timeout"),
)
