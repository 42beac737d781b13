"""Pages for people, request by request: who gets a page, what it has, and that programs see no difference."""

from __future__ import annotations

import base64
import json
import re
import unittest
from typing import Any
from urllib.parse import urljoin, urlsplit

from filestoraged.api.pages import readable_size
from filestoraged.errors import Error
from tests.api.test_drops import DropsCase
from tests.api.test_tokens import TokensCase, bearer
from tests.daemon.process import ROOT
from tests.support import Answer, ServerCase

PAGES = ROOT / "filestoraged" / "pages"
BROWSER = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
PROGRAMS: tuple[dict[str, str], ...] = ({}, {"Accept": "*/*"}, {"Accept": "application/json"})

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'"
)
# Bytes of a page with all that it loads.
MAX_SIZE = 40 * 1024


def is_page(answer: Answer) -> bool:
    return answer.fields.get("content-type") == "text/html; charset=utf-8"


def links_of(page: Answer) -> list[str]:
    return re.findall(r'(?:src|href)="([^"]*-/pages/[^"]*)"', page.body.decode())


class PagesTest(DropsCase):
    def test_prefix_of_files_is_a_page_where_html_is_preferred_and_no_other_request_is(self) -> None:
        page = self.get("/", **BROWSER)

        self.assertEqual((200, True), (page.status, is_page(page)))
        self.assertIn(b"<form", page.body)
        for method, path in (("POST", "/"), ("DELETE", "/"), ("HEAD", "/"), ("GET", "/-/health")):
            with self.subTest(method=method, path=path):
                self.assertFalse(is_page(self.request(method, path, **BROWSER)))

    def test_programs_get_the_answer_that_they_got_without_pages(self) -> None:
        for fields in PROGRAMS:
            for path, status in (("/", 400), ("/vimeo/api/v1.0", 404), ("/vimeo/api/v1.0/", 404)):
                with self.subTest(path=path, fields=fields):
                    answer = self.get(path, **fields)

                    self.assertEqual((status, "application/json"), (answer.status, answer.fields["content-type"]))
                    self.assertNotIn("vary", answer.fields)

    def test_request_with_a_hash_gets_the_file_whatever_it_prefers(self) -> None:
        digest = json.loads(self.post("/", b"tea").body)["hash"]

        for path in (f"/?hash={digest}", f"/?file_hash={digest}", f"/{digest}", f"/{digest}?name=a.html"):
            with self.subTest(path=path):
                self.assertEqual((200, b"tea"), (self.get(path, **BROWSER).status, self.get(path, **BROWSER).body))
        self.assertEqual(404, self.get("/?hash=x", **BROWSER).status)
        self.assertFalse(is_page(self.get("/nothing", **BROWSER)))

    def test_page_has_the_policy_and_may_be_revalidated(self) -> None:
        page = self.get("/", **BROWSER)

        self.assertEqual(POLICY, page.fields["content-security-policy"])
        self.assertEqual("same-origin", page.fields["referrer-policy"])
        self.assertEqual("nosniff", page.fields["x-content-type-options"])
        self.assertEqual(("Accept", "no-cache"), (page.fields["vary"], page.fields["cache-control"]))
        again = self.get("/", **BROWSER, If_None_Match=page.fields["etag"])
        self.assertEqual((304, b""), (again.status, again.body))
        self.assertEqual("Accept", again.fields["vary"])

    def test_page_with_all_that_it_loads_has_at_most_40_kib(self) -> None:
        for path in ("/", "/vimeo/api/v1.0/"):
            page = self.get(path, **BROWSER).body

            loaded = self.assets_of(page.decode())

            self.assertLessEqual({"style.css", "upload.js", "resumable.js", "sha256.js"}, loaded.keys())
            self.assertLessEqual(len(page) + sum(map(len, loaded.values())), MAX_SIZE)

    def assets_of(self, text: str) -> dict[str, bytes]:
        """The assets that a page names, and that these name in turn."""
        found: dict[str, bytes] = {}
        unread = [text]
        while unread:
            text = unread.pop()
            for asset in PAGES.iterdir():
                if asset.suffix != ".html" and asset.name in text and asset.name not in found:
                    found[asset.name] = asset.read_bytes()
                    unread.append(found[asset.name].decode())
        return found

    def test_assets_are_served_with_their_types_and_kept_by_version(self) -> None:
        types = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
        assets = [path for path in PAGES.iterdir() if path.suffix != ".html"]
        self.assertGreater(len(assets), 5)
        for path in assets:
            answer = self.get(f"/-/pages/{path.name}")

            self.assertEqual((200, path.read_bytes()), (answer.status, answer.body))
            self.assertEqual(types[path.suffix], answer.fields["content-type"])
            self.assertEqual("no-cache", answer.fields["cache-control"])
            self.assertEqual(304, self.get(f"/-/pages/{path.name}", If_None_Match=answer.fields["etag"]).status)
        for link in links_of(self.get("/", **BROWSER)):
            self.assertIn("immutable", self.get(urljoin("/", link)).fields["cache-control"])
        for missing in ("", "nothing.js", "page.html", "..%2fdrops.py"):
            self.assertEqual(404, self.get(f"/-/pages/{missing}").status)

    def test_nothing_in_a_page_is_inline_or_elsewhere(self) -> None:
        for template in PAGES.glob("*.html"):
            text = template.read_text(encoding="utf-8")

            self.assertEqual([], re.findall(r"<style|<script>|\sstyle=|\son\w+=|https?://|//cdn", text), template.name)
            self.assertEqual([], re.findall(r'(?:src|href|action)="(?!\{\{)[^"]+"', text), template.name)
        for script in PAGES.glob("*.js"):
            self.assertNotIn("innerHTML", script.read_text(encoding="utf-8"))

    def test_script_has_a_sentence_for_each_status_of_an_error(self) -> None:
        script = (PAGES / "common.js").read_text(encoding="utf-8")
        sentences = {int(status) for status in re.findall(r"^  (\d+): \"", script, re.MULTILINE)}

        def statuses(family: type[Error]) -> set[int]:
            return {family.status}.union(*(statuses(each) for each in family.__subclasses__()))

        self.assertLessEqual(statuses(Error) - {499}, sentences)
        # Without an answer.
        self.assertIn(0, sentences)


class ChunkTest(ServerCase):
    config: dict[str, Any] = {"mounts": {"/f": "files", "/u/p": "uploads"}, "chunk_hint": 10_000_000}

    def test_page_knows_the_size_of_pieces_and_where_they_go(self) -> None:
        page = self.get("/f/", **BROWSER).body.decode()

        (uploads,) = re.findall(r'data-uploads="([^"]*)"', page)
        self.assertEqual("/some/where/u/p/", urljoin("/some/where/f/", uploads))
        self.assertIn('data-chunk="10000000"', page)


class MountedTest(ServerCase):
    config: dict[str, Any] = {"mounts": {"/up/load": "files", "/": "drops"}}

    def test_links_and_forms_are_relative_to_the_path_with_and_without_its_slash(self) -> None:
        for path in ("/up/load", "/up/load/", "/", "/drop/0", "/file/0"):
            with self.subTest(path=path):
                page = self.get(path, **BROWSER)

                links = links_of(page)

                self.assertEqual(3, len(links))
                for link in links:
                    self.assertFalse(link.startswith(("/", "http")), link)
                    # Also below a prefix that a proxy removes.
                    for prefix in ("", "/some/where"):
                        self.assertTrue(urljoin(prefix + path, link).startswith(f"{prefix}/-/pages/"), link)
                if path.startswith("/up"):
                    (action,) = re.findall(r'action="([^"]*)"', page.body.decode())
                    self.assertEqual("/up/load/", urljoin(path, action))
                    # Uploads are not served.
                    self.assertIn(b'data-uploads=""', page.body)


class PublicUrlTest(ServerCase):
    config: dict[str, Any] = {"public_url": "https://files.example.org/f", "max_size": 1 << 20}

    def test_page_names_the_public_url_and_the_largest_size(self) -> None:
        page = self.get("/", **BROWSER).body

        self.assertIn(b'data-link="https://files.example.org/f"', page)
        self.assertIn(b'data-limit="1048576"', page)
        self.assertIn(b"up to 1 MiB each", page)


class HostTest(ServerCase):
    config: dict[str, Any] = {"host": ()}

    def test_pages_are_refused_under_an_unknown_host(self) -> None:
        for path in ("/", "/vimeo/api/v1.0/", "/vimeo/api/v1.0/drop/0", "/-/pages/style.css", "/-/openapi.json"):
            answer = self.get(path, **BROWSER, Host="evil.example")

            self.assertEqual(421, answer.status)
            self.assertIn(b"--host", answer.body)
            self.assertNotEqual(421, self.get(path, **BROWSER, Host="localhost").status)


class NoPagesTest(DropsCase):
    config: dict[str, Any] = {**DropsCase.config, "no_pages": True}

    def test_browsers_get_what_programs_get(self) -> None:
        path = self.drop(b"tea")

        self.assertEqual(400, self.get("/", **BROWSER).status)
        self.assertEqual(404, self.get("/vimeo/api/v1.0/", **BROWSER).status)
        self.assertEqual(404, self.get("/-/pages/style.css").status)
        for method in ("GET", "POST"):
            self.assertEqual(404, self.request(method, path.replace("/file/", "/drop/")).status)
        self.assertEqual(404, self.post("/vimeo/api/v1.0/drop", b"").status)
        answer = self.get(path, **BROWSER)
        self.assertEqual((200, b"tea"), (answer.status, answer.body))


class TokensPagesTest(TokensCase):
    def test_pages_and_assets_need_no_token_and_say_that_requests_do(self) -> None:
        for path in ("/", "/vimeo/api/v1.0/"):
            page = self.get(path, **BROWSER)

            self.assertEqual(200, page.status)
            self.assertIn(b'data-needs-token="yes"', page.body)
            for link in links_of(page):
                self.assertEqual(200, self.get(urljoin(path, link)).status)
        self.assertEqual(404, self.get("/vimeo/api/v1.0/drop/0").status)

    def test_requests_of_pages_need_a_token(self) -> None:
        drop = "/vimeo/api/v1.0/drop"
        for status, path, fields in (
            *((401, path, {}) for path in ("/", drop, f"{drop}/0")),
            (404, f"{drop}/0", bearer("reader")),
            (403, f"{drop}/0", bearer("writer")),
        ):
            self.assertEqual(status, self.post(path, b"tea", **fields).status)
        self.assertIn(b'data-needs-token=""', self.get("/", **BROWSER, **bearer("writer")).body)

    def test_password_of_a_drop_comes_in_the_body_beside_a_token(self) -> None:
        body = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\ntea\r\n'
        body += b'--b\r\nContent-Disposition: form-data; name="password"\r\n\r\nopen\r\n--b--\r\n'
        form = {"Content_Type": "multipart/form-data; boundary=b"}
        url = json.loads(self.put("/vimeo/api/v1.0/file", body, **form, **bearer("all")).body)["url"]
        path = urlsplit(url).path.replace("/file/", "/drop/")

        basic = "Basic " + base64.b64encode(b"x:token-of-all").decode()
        self.assertEqual(401, self.post(path, b"password=wrong", Authorization=basic).status)
        answer = self.post(path, b"password=open", Authorization=basic)

        self.assertEqual((200, b"tea"), (answer.status, answer.body))


class PublicScopesPagesTest(TokensCase):
    lines = ["anybody write:files -"]

    def test_page_asks_for_no_token_where_anybody_may_upload(self) -> None:
        self.assertIn(b'data-needs-token=""', self.get("/", **BROWSER).body)
        self.assertIn(b'data-needs-token="yes"', self.get("/vimeo/api/v1.0/", **BROWSER).body)


class SizeTest(unittest.TestCase):
    def test_size_is_in_the_largest_unit_of_which_there_is_one(self) -> None:
        for size, text in (
            *((0, "0 bytes"), (1, "1 byte"), (1023, "1023 bytes"), (1024, "1 KiB"), (1536, "1.5 KiB")),
            *((1 << 20, "1 MiB"), (5 << 30, "5 GiB"), (3 << 40, "3 TiB"), (3 << 50, "3072 TiB")),
        ):
            self.assertEqual(text, readable_size(size))
