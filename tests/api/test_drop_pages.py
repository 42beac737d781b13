"""The landing page of a drop, and the forms, request by request: what takes a drop, and what does not."""

from __future__ import annotations

import json
import os
import re
from urllib.parse import quote_plus, urlsplit

from tests.api.test_drops import DropsCase, file_part
from tests.api.test_files import form, text_part
from tests.api.test_pages import BROWSER, is_page
from tests.support import Answer, in_threads

URLENCODED = {"Content_Type": "application/x-www-form-urlencoded"}
UNKNOWN = "/vimeo/api/v1.0/drop/" + "0" * 32


class LandingCase(DropsCase):
    def landing(self, data: bytes = b"tea", password: str | None = None, *, name: str = "report.xls") -> str:
        """Upload a file. Returns the path of its landing page."""
        return self.drop(data, password, name=name).replace("/file/", "/drop/")

    def fetch(self, path: str, password: str | None = None, **fields: str) -> Answer:
        body = b"" if password is None else f"password={quote_plus(password)}".encode()
        return self.post(path, body, **URLENCODED, **fields)


class LandingTest(LandingCase):
    def test_landing_page_shows_name_and_size_and_takes_nothing(self) -> None:
        for password in (None, "open"):
            path = self.landing(bytes(1536), password, name="<b>&\u202e.xls")

            for fields in ({}, BROWSER, {"Accept": "application/json"}):
                page = self.get(path, **fields)
                self.assertEqual((200, "no-store"), (page.status, page.fields["cache-control"]))
                self.assertTrue(is_page(page))
                self.assertIn("<bdi>&lt;b&gt;&amp;\u202e.xls</bdi>", page.body.decode())
                self.assertIn(b"1.5 KiB", page.body)
                self.assertRegex(page.body.decode(), r'<form [^>]*method="post"')
                field = re.search(rb'<input [^>]*name="password" type="password"', page.body)
                self.assertEqual((bool(password),) * 2, (bool(field), b'type="password"' in page.body))
            self.assertEqual(bytes(1536), self.fetch(path, password).body)

    def test_previews_scanners_and_prefetches_take_nothing(self) -> None:
        path = self.landing(password="open")
        for fields in (
            {"User_Agent": "Slackbot-LinkExpanding 1.0", "Range": "bytes=0-32768"},
            {"User_Agent": "facebookexternalhit/1.1", "Accept": "*/*"},
            {"Sec_Purpose": "prefetch", **BROWSER},
            {"If_None_Match": "*"},
        ):
            self.assertEqual(200, self.get(path, **fields).status)
        self.assertEqual(405, self.request("HEAD", path).status)

        self.assertEqual(b"tea", self.fetch(path, "open").body)

    def test_link_for_programs_shows_the_landing_page_to_a_browser(self) -> None:
        path = self.drop(b"tea", "open")

        page = self.get(path, **BROWSER)

        self.assertTrue(is_page(page))
        self.assertEqual("Accept", page.fields["vary"])
        self.assertEqual(b"tea", self.get(f"{path}?password=open").body)
        self.assertEqual(410, self.get(path, **BROWSER).status)
        self.assertTrue(is_page(self.get(path, **BROWSER)))

    def test_form_gives_the_file_once_as_programs_get_it(self) -> None:
        data = os.urandom(300_000)
        path = self.landing(data, "öffne dich", name="Käse.xls")

        answer = self.fetch(path, "öffne dich")
        again = self.fetch(path, "öffne dich")

        self.assertEqual(200, answer.status)
        self.assertTrue(answer.body == data)
        self.assertIn("filename*=UTF-8''K%C3%A4se.xls", answer.fields["content-disposition"])
        self.assertEqual(
            ("sandbox", "no-store"), (answer.fields["content-security-policy"], again.fields["cache-control"])
        )
        self.assertEqual(410, again.status)
        self.assertTrue(is_page(again))

    def test_multipart_form_and_empty_body_fetch_too(self) -> None:
        body, fields = form(text_part(b"other", b"x"), text_part(b"password", b"open"))

        self.assertEqual(b"tea", self.post(self.landing(password="open"), body, **fields).body)
        self.assertEqual(b"tea", self.post(self.landing(), b"").body)
        self.assertEqual(b"tea", self.fetch(self.landing(), "not asked for").body)

    def test_wrong_or_missing_password_shows_the_page_again_and_takes_nothing(self) -> None:
        path = self.landing(password="open")
        for password, sentence in (("wrong", b"The password is wrong."), (None, b"A password is required.")):
            page = self.fetch(path, password)

            self.assertEqual(401, page.status)
            self.assertTrue(is_page(page))
            self.assertIn(sentence, page.body)
            self.assertIn(b'aria-invalid="true"', page.body)
            # A browser shows its own dialogue for a scheme that it knows.
            self.assertNotRegex(page.fields["www-authenticate"], "(?i)basic|digest|bearer|negotiate")
        self.assertEqual(b"tea", self.fetch(path, "open").body)

    def test_wrong_password_of_a_drop_whose_file_is_gone_answers_410_with_a_page(self) -> None:
        path = self.landing(password="open")
        for file in self.store_path.glob(f"drops/*/{path[-32:]}"):
            file.unlink()

        answer = self.fetch(path, "wrong")

        self.assertEqual((410, True), (answer.status, is_page(answer)))

    def test_locked_drop_says_when_to_try_again(self) -> None:
        path = self.landing(password="open")
        for _ in range(10):
            self.fetch(path, "wrong")

        for page in (self.fetch(path, "open"), self.get(path), self.get(path.replace("/drop/", "/file/"), **BROWSER)):
            seconds = page.fields["retry-after"]
            self.assertEqual(429, page.status)
            self.assertTrue(is_page(page))
            self.assertIn(f'data-retry="{seconds}"', page.body.decode())
            self.assertIn(f"retry in {seconds} s", page.body.decode())

    def test_unknown_and_malformed_ids_answer_404_with_a_page(self) -> None:
        for path in (UNKNOWN, UNKNOWN[:-1], f"{UNKNOWN}%00", f"{UNKNOWN[:-1]}G", "/vimeo/api/v1.0/drop/"):
            for page in (self.get(path), self.post(path, b"")):
                self.assertEqual(404, page.status)
                self.assertTrue(is_page(page))
                self.assertNotIn("data-retry", page.body.decode())

    def test_malformed_form_answers_400_and_takes_nothing(self) -> None:
        path = self.landing(password="open")
        multipart = {"Content_Type": "multipart/form-data; boundary=b"}
        for body, fields, status in (
            *((b"password=\xff", URLENCODED, 400), (b"password=%ff", URLENCODED, 400), (b"--c", multipart, 400)),
            *((b"password=" + b"x" * 9000, URLENCODED, 413), (b"&" * 200, URLENCODED, 400)),
        ):
            answer = self.post(path, body, **fields)

            self.assertEqual(status, answer.status)
            self.assertTrue(is_page(answer))
        self.assertEqual(b"tea", self.fetch(path, "open").body)

    def test_other_methods_answer_405_with_those_of_the_path(self) -> None:
        for method in ("PUT", "DELETE", "HEAD", "OPTIONS", "PATCH"):
            answer = self.request(method, UNKNOWN)

            self.assertEqual((405, "GET, POST"), (answer.status, answer.fields["allow"]))
        self.assertEqual("POST", self.get("/vimeo/api/v1.0/drop").fields["allow"])

    def test_one_of_many_forms_gets_the_file_and_none_of_another_site(self) -> None:
        path = self.landing()
        for fields in ({"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"}):
            self.assertEqual(403, self.fetch(path, **fields).status)

        statuses = in_threads(8, lambda _: self.fetch(path, Sec_Fetch_Site="same-origin").status)

        self.assertEqual([200] + [410] * 7, sorted(statuses))

    def test_log_has_neither_ids_nor_passwords(self) -> None:
        path = self.landing(password="sesame-open")
        self.get(path)
        self.fetch(path, "sesame-wrong")
        self.fetch(path, "sesame-open")

        text = "\n".join(self.log_lines(0))

        self.assertNotIn(path.rpartition("/")[2], text)
        self.assertNotIn("sesame", text)


class DropSizeTest(LandingCase):
    config = {**LandingCase.config, "drop_size": 3 << 19}

    def test_page_says_the_drop_size_and_a_larger_form_shows_a_page_with_413(self) -> None:
        page = self.get("/vimeo/api/v1.0/", **BROWSER)
        self.assertIn(b"up to 1.5 MiB each", page.body)
        self.assertIn(b'data-limit="1572864"', page.body)

        body, type_ = form(file_part(bytes((3 << 19) + 1)))
        refused = self.post("/vimeo/api/v1.0/drop", body, **type_)
        self.assertEqual((413, True), (refused.status, is_page(refused)))


class CreationTest(LandingCase):
    def create(self, *parts: bytes, **fields: str) -> Answer:
        body, type_ = form(*parts)
        return self.post("/vimeo/api/v1.0/drop", body, **type_, **fields)

    def test_form_makes_a_drop_and_shows_its_link(self) -> None:
        page = self.create(file_part(b"tea", "<i>.txt"), text_part(b"password", b"open"), Host="drops.test")

        self.assertEqual((201, "no-store"), (page.status, page.fields["cache-control"]))
        self.assertTrue(is_page(page))
        self.assertIn(b"&lt;i&gt;.txt", page.body)
        (link,) = re.findall(r'value="(http://drops\.test/vimeo/api/v1\.0/drop/[0-9a-f]{32})"', page.body.decode())
        self.assertEqual(b"tea", self.fetch(urlsplit(link).path, "open").body)

    def test_refused_form_shows_a_page_with_the_status_that_programs_get(self) -> None:
        for parts, status in (((text_part(b"password", b"x"),), 400), ((file_part(bytes((16 << 20) + 1)),), 413)):
            page = self.create(*parts)

            self.assertEqual(status, page.status)
            self.assertTrue(is_page(page))
        self.assertEqual([], self.bytes_kept())

    def test_drop_of_a_program_has_a_landing_page(self) -> None:
        url = json.loads(self.send_form(file_part(b"tea")).body)["url"]

        self.assertTrue(is_page(self.get(urlsplit(url).path.replace("/file/", "/drop/"))))
