"""The document /-/openapi.json: valid, complete, and true, as schemathesis finds by requests made up from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from openapi_spec_validator import validate

from filestoraged.api.openapi import OPERATIONS
from tests.api.test_tokens import TokensCase
from tests.daemon.process import clean_environment, running
from tests.support import ServerCase, TempCase

# Those that judge responses by the document alone.
CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,"
    "response_schema_conformance,allow_header_conformance"
)


class OpenApiTest(ServerCase):
    def test_document_is_valid_and_needs_no_token_without_tokens(self) -> None:
        answer = self.get("/-/openapi.json")

        self.assertEqual((200, "application/json"), (answer.status, answer.fields["content-type"]))
        validate(json.loads(answer.body))
        self.assertEqual("3.1.0", json.loads(answer.body)["openapi"])
        self.assertNotIn(b"security", answer.body)

    def test_every_request_of_the_routers_is_declared_and_no_other(self) -> None:
        routers = {**self.services._routers, **self.services._operations, "": self.services._pages.routes()}  # type: ignore[union-attr]
        served = {
            (owner.name, route.method, route.pattern)
            for router in routers.values()
            for owner, route in router.list_routes()
        }

        described = {each.name: each.describe() for each in self.services._interfaces}
        declared = {
            (name, *request)
            for name, each in {**described, "operations": OPERATIONS}.items()
            for request in each.operations
        }
        self.assertEqual(served, declared)

    def test_paths_have_the_prefixes_of_their_mounts(self) -> None:
        paths = json.loads(self.get("/-/openapi.json").body)["paths"]

        for path, methods in (
            *(("/data", {"get"}), ("/data/", {"get", "put"})),
            *(("/", {"get", "post", "delete"}), ("/{hash}", {"get", "delete"}), ("/data/{repository}", {"get", "put"})),
            *(("/kv/set", {"get", "post", "delete"}), ("/vimeo/api/v1.0/drop/{id}", {"get", "post"})),
            *(("/-/health", {"get"}), ("/-/metrics", {"get"}), ("/data/{repository}/locks", {"get", "post"})),
        ):
            self.assertEqual(methods, set(paths[path]), path)


class MountedTest(ServerCase):
    config: dict[str, Any] = {"mounts": {"/": "kv"}, "no_pages": True}

    def test_only_what_is_mounted_is_described(self) -> None:
        document = json.loads(self.get("/-/openapi.json").body)

        validate(document)
        self.assertEqual({"/{key}", "/set", "/commit"}, {path for path in document["paths"] if "/-/" not in path})


class TokensOpenApiTest(TokensCase):
    def test_document_needs_no_token_and_says_which_requests_do(self) -> None:
        document = json.loads(self.get("/-/openapi.json").body)

        validate(document)
        paths = document["paths"]
        self.assertEqual([{"token": []}, {"basic": []}], paths["/"]["post"]["security"])
        self.assertEqual([], paths["/-/health"]["get"]["security"])
        self.assertEqual([], paths["/vimeo/api/v1.0/drop/{id}"]["get"]["security"])


class SchemathesisTest(TempCase):
    def test_daemon_answers_as_the_document_says(self) -> None:
        with running("--store", str(self.directory / "store"), "--workers", "1") as daemon:
            command = [str(Path(sys.executable).parent / "schemathesis"), "run", f"{daemon.url}/-/openapi.json"]
            options = ["--url", daemon.url, "--checks", CHECKS, "--phases", "fuzzing", "--max-examples", "12"]
            done = subprocess.run(
                [*command, *options, "--generation-database", "none", "--no-color", "--seed", "1"],
                capture_output=True,
                text=True,
                cwd=self.directory,
                env={**clean_environment(), "SCHEMATHESIS_HOOKS": "tests.api.schemathesis_hooks"},
                check=False,
            )

        self.assertEqual(0, done.returncode, done.stdout[-6000:])
