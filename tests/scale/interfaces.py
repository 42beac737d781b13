"""What each interface promises of several daemons behind HAProxy, request by request on whichever daemon answers."""

from __future__ import annotations

import os
import unittest
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import requests

from tests.daemon.process import PATIENCE
from tests.haproxy import BackendDaemon, HAProxy
from tests.scale.program import wait_until
from tests.support import in_threads
from tests.tus import OCTETS, VERSION

_LFS = "application/vnd.git-lfs+json"
_TUS = {"Tus-Resumable": VERSION}
_CLIENTS = 12


class InterfacesContract(unittest.TestCase):
    """A subclass provides HAProxy and the daemons behind it. Its tests may share a store with others."""

    haproxy: HAProxy
    daemons: Sequence[BackendDaemon]

    def test_upload_by_one_daemon_is_downloaded_from_each(self) -> None:
        data = os.urandom(100_000)

        stored = self.send("POST", "/", data)

        self.assertEqual(200, stored.status_code, stored.text)
        for url in self.urls():
            self.assertEqual(data, requests.get(f"{url}/{stored.json()['hash']}", timeout=PATIENCE).content)

    def test_same_bytes_uploaded_to_all_daemons_at_once_are_one_object(self) -> None:
        data = os.urandom(100_000)

        digests = in_threads(_CLIENTS, lambda _: self.send("POST", "/", data).json()["hash"])

        self.assertEqual(1, len(set(digests)))
        self.assertEqual(data, self.send("GET", f"/{digests[0]}").content)

    def test_range_of_a_download_comes_from_whichever_daemon(self) -> None:
        data = os.urandom(1_000_000)
        digest = self.send("POST", "/", data).json()["hash"]

        parts = [
            self.send("GET", f"/{digest}", headers={"Range": f"bytes={start}-{start + 199_999}"})
            for start in range(0, 1_000_000, 200_000)
        ]

        self.assertEqual([206] * 5, [part.status_code for part in parts])
        self.assertEqual(data, b"".join(part.content for part in parts))

    def test_upload_in_chunks_of_unknown_length_arrives_whole(self) -> None:
        pieces = [os.urandom(1_000_000) for _ in range(12)]

        digest = self.send("POST", "/", iter(pieces)).json()["hash"]

        self.assertTrue(b"".join(pieces) == self.send("GET", f"/{digest}").content)

    def test_removal_by_one_daemon_is_seen_by_each(self) -> None:
        digest = self.send("POST", "/", os.urandom(1000)).json()["hash"]
        for url in self.urls():
            requests.get(f"{url}/{digest}", timeout=PATIENCE)

        self.assertEqual(200, self.send("DELETE", f"/{digest}").status_code)

        seen = [requests.get(f"{url}/{digest}", timeout=PATIENCE).status_code for url in self.urls()]
        self.assertEqual([404] * len(seen), seen)

    def test_repositories_are_listed_by_each_daemon_and_share_nothing(self) -> None:
        pets, farm = (f"{name}-{uuid.uuid4().hex}" for name in ("pets", "farm"))
        oids = sorted(self.send("PUT", f"/data/{pets}", os.urandom(1000)).json()["oid"] for _ in range(9))

        for url in self.urls():
            listed = requests.get(f"{url}/data/{pets}", timeout=PATIENCE).json()["objects"]
            self.assertEqual(oids, [each["oid"] for each in listed])
        self.assertEqual(404, self.send("GET", f"/data/{farm}/{oids[0]}").status_code)

    def test_lfs_batch_upload_and_download_take_whichever_daemon(self) -> None:
        repository, data = f"/data/{uuid.uuid4().hex}", os.urandom(5000)
        oid = self.send("PUT", f"/data/{uuid.uuid4().hex}", data).json()["oid"]
        wanted = [{"oid": oid, "size": len(data)}]

        offered = self.batch(repository, "upload", wanted)
        uploaded = requests.put(offered["actions"]["upload"]["href"], data=data, timeout=PATIENCE)
        there = self.batch(repository, "upload", wanted)
        found = self.batch(repository, "download", wanted)

        self.assertEqual(201, uploaded.status_code)
        self.assertNotIn("actions", there)
        self.assertEqual(data, requests.get(found["actions"]["download"]["href"], timeout=PATIENCE).content)

    def test_one_of_many_clients_gets_a_lock_whichever_daemons_they_ask(self) -> None:
        locks = f"/data/{uuid.uuid4().hex}/locks"

        answers = in_threads(_CLIENTS, lambda _: self.send("POST", locks, json={"path": "cat.jpg"}))

        self.assertEqual({201: 1, 409: _CLIENTS - 1}, Counter(each.status_code for each in answers))
        ids = {each.json()["lock"]["id"] for each in answers}
        self.assertEqual(1, len(ids))
        self.assertEqual(200, self.send("POST", f"{locks}/{ids.pop()}/unlock", json={}).status_code)
        for url in self.urls():
            self.assertEqual([], requests.get(url + locks, timeout=PATIENCE).json()["locks"])

    def test_one_of_many_clients_gets_a_drop_whichever_daemons_they_ask(self) -> None:
        data = os.urandom(100_000)
        link = self.put_drop(data)

        answers = in_threads(_CLIENTS, lambda _: requests.get(link, timeout=PATIENCE))

        self.assertEqual({200: 1, 410: _CLIENTS - 1}, Counter(each.status_code for each in answers))
        self.assertEqual([data], [each.content for each in answers if each.status_code == 200])

    def test_guesses_of_a_password_are_counted_over_all_daemons(self) -> None:
        link = self.put_drop(b"tea", password="right")

        guesses = [requests.get(f"{link}?password=wrong", timeout=PATIENCE).status_code for _ in range(12)]

        self.assertEqual([401] * 10 + [429] * 2, guesses)

    def test_resumable_upload_goes_on_through_whichever_daemon(self) -> None:
        data = os.urandom(1_000_000)
        created = self.send("POST", "/uploads", headers={**_TUS, "Upload-Length": str(len(data))})
        path = "/uploads/" + created.headers["Location"].rpartition("/")[2]

        for start in range(0, len(data), 100_000):
            found = self.send("HEAD", path, headers=_TUS).headers["Upload-Offset"]
            self.assertEqual(str(start), found)
            fields = {**_TUS, "Content-Type": OCTETS, "Upload-Offset": found}
            last = self.send("PATCH", path, data[start : start + 100_000], headers=fields)
            self.assertEqual(204, last.status_code, last.text)

        self.assertEqual(data, self.send("GET", last.headers["Content-Location"]).content)

    def test_keys_set_by_several_daemons_are_committed_by_one_and_read_from_each(self) -> None:
        keys = {uuid.uuid4().hex: number for number in range(6)}
        for key, value in keys.items():
            self.assertEqual(201, self.send("POST", "/kv/set", json={key: value}).status_code)
            self.assertEqual(404, self.send("GET", f"/kv/{key}").status_code)

        self.assertEqual(204, self.send("POST", "/kv/commit").status_code)

        for url in self.urls():
            for key, value in keys.items():
                self.assertEqual({key: value}, requests.get(f"{url}/kv/{key}", timeout=PATIENCE).json())

    def test_read_behind_a_commit_has_the_new_value_on_each_daemon(self) -> None:
        key = uuid.uuid4().hex
        for number in range(10):
            self.send("POST", "/kv/set", json={key: number})
            self.send("POST", "/kv/commit")

            seen = [requests.get(f"{url}/kv/{key}", timeout=PATIENCE).json() for url in self.urls()]

            self.assertEqual([{key: number}] * len(seen), seen)

    def test_last_change_of_a_key_wins_whichever_daemons_took_the_changes(self) -> None:
        key = uuid.uuid4().hex
        for number in range(5):
            self.send("POST", "/kv/set", json={key: number})
        self.send("DELETE", "/kv/set", json=key)
        self.send("POST", "/kv/set", json={key: "last"})

        self.send("POST", "/kv/commit")

        self.assertEqual({key: "last"}, self.send("GET", f"/kv/{key}").json())

    def test_operations_are_not_public_and_all_daemons_answer(self) -> None:
        statuses = [self.send("GET", f"/-/{path}").status_code for path in ("health", "ready", "metrics")]
        for _ in range(9):
            self.send("GET", "/-/health")

        self.assertEqual([200, 404, 404], statuses)
        self.assertEqual([daemon.name for daemon in self.daemons], self.haproxy.answered())

    def test_address_that_a_client_claims_is_replaced_by_its_own(self) -> None:
        path = f"/{uuid.uuid4().hex[:12]}"

        self.send("GET", path, headers={"X-Forwarded-For": "192.0.2.1"})

        wait_until("it is logged", lambda: self.access_lines(path))
        (line,) = self.access_lines(path)
        self.assertIn("127.0.0.1", line)
        self.assertNotIn("192.0.2.1", line)

    def test_log_of_haproxy_has_no_links_of_drops_and_no_passwords(self) -> None:
        link = self.put_drop(b"tea", password="sesame")
        requests.get(f"{link}?password=sesame", timeout=PATIENCE)

        log = "\n".join(self.haproxy.lines())

        self.assertIn("/vimeo/api/v1.0/***", log)
        self.assertNotIn("sesame", log)
        self.assertNotIn(link.rpartition("/")[2], log)

    def send(self, method: str, path: str, data: Any = None, **settings: Any) -> requests.Response:
        """Send a request through HAProxy on a connection of its own, so that any daemon gets it."""
        return requests.request(method, self.haproxy.url + path, data=data, timeout=PATIENCE, **settings)

    def urls(self) -> Iterator[str]:
        """HAProxy and each daemon."""
        yield self.haproxy.url
        yield from (daemon.url for daemon in self.daemons)

    def access_lines(self, path: str) -> list[str]:
        return [line for daemon in self.daemons for line in daemon.lines() if path in line]

    def batch(self, repository: str, operation: str, objects: list[dict[str, Any]]) -> dict[str, Any]:
        """Ask for a batch of one object; return what is said of it."""
        body = {"operation": operation, "objects": objects}
        answer = self.send("POST", f"{repository}/objects/batch", json=body, headers={"Accept": _LFS})
        self.assertEqual(200, answer.status_code, answer.text)
        (said,) = answer.json()["objects"]
        return dict(said)

    def put_drop(self, data: bytes, **password: str) -> str:
        path = f"{self.haproxy.url}/vimeo/api/v1.0/file"
        answer = requests.put(path, files={"file": ("x", data)}, data=password, timeout=PATIENCE)
        self.assertEqual(201, answer.status_code, answer.text)
        return str(answer.json()["url"])
