"""The table of options: what it says of a default is so, and flags, file and defaults take precedence in this order."""

from __future__ import annotations

from filestoraged.cli.serve import parse_arguments
from filestoraged.command_errors import UsageError
from filestoraged.daemon.config import FIELDS, Config, file_values
from filestoraged.daemon.fields import ConfigField, declare
from filestoraged.daemon.interfaces import INTERFACES
from filestoraged.daemon.values import parse_count
from filestoraged.store.limits import Limit, Rules
from tests.support import TempCase

# Shown in words, since they depend on the machine or on other options.
IN_WORDS = {"workers", "max-connections-per-client"}


class TableTest(TempCase):
    def test_shown_default_is_the_value_of_the_default(self) -> None:
        for field in FIELDS:
            if field.name not in IN_WORDS:
                with self.subTest(field.name):
                    self.assertEqual(getattr(Config(), field.attribute), self.shown_value(field))

    def test_every_option_has_help_without_full_stop_and_a_name_of_its_own(self) -> None:
        self.assertEqual(len(FIELDS), len({field.name for field in FIELDS}))
        for field in FIELDS:
            with self.subTest(field.name):
                self.assertRegex(field.help, r"\A\S.*[^.\s]\Z")
                self.assertRegex(field.metavar, r"\A[A-Z]")

    def test_new_option_is_one_declaration(self) -> None:
        class Extended(Config):
            cups: int = declare(parse_count, "N", "number of cups", default=4)

        (added,) = Extended.fields[len(FIELDS) :]

        self.assertEqual(("cups", "N", "4", "number of cups"), added[:4])
        self.assertEqual(7, added.value("7"))
        self.assertEqual(4, Extended().cups)

    def shown_value(self, field: ConfigField) -> object:
        shown = field.default.partition(";")[0]
        if shown == "none" or (field.name, shown) == ("listen", "localhost:8080"):
            # The default of `listen` is applied by the endpoints, unless there are sockets of systemd.
            return () if field.join is not None or field.name == "memcached" else None
        return field.value(shown if field.join is None else shown.split(", "))


class PrecedenceTest(TempCase):
    def setUp(self) -> None:
        super().setUp()
        self.file = self.directory / "filestoraged.conf"
        self.file.write_text("[filestoraged]\nthreads = 7\nworkers = 3\nmount =\n  kv=/keys\n  files=/f/\n")

    def test_flag_wins_over_file_and_file_over_default(self) -> None:
        config = parse_arguments(["--config", str(self.file), "--threads", "9"])

        self.assertEqual((9, 3, 10_000), (config.threads, config.workers, config.max_connections))

    def test_repeatable_option_has_a_value_on_each_line(self) -> None:
        config = parse_arguments(["--config", str(self.file)])

        self.assertEqual({"/keys": "kv", "/f": "files"}, config.mounts)

    def test_values_of_a_file_are_those_of_the_attributes_asked_for(self) -> None:
        self.file.write_text("[filestoraged]\nthreads = 7\nworkers = 3\nmax-size = 5\nmount = kv=/keys\n")

        values = file_values(str(self.file), ["threads", "hash", "max_size", "mounts"])

        self.assertEqual({"threads": 7, "max_size": 5, "mounts": {"/keys": "kv"}}, values)

    def test_unknown_option_of_a_file_is_refused_by_its_name(self) -> None:
        self.file.write_text("[filestoraged]\ncolour = blue\n")

        with self.assertRaisesRegex(UsageError, r"filestoraged\.conf': unknown option 'colour'\Z"):
            parse_arguments(["--config", str(self.file)])

    def test_names_and_restic_are_mounted_by_default_unless_objects_cannot_be_listed(self) -> None:
        mounted = [set(parse_arguments(options).mounts.values()) for options in ([], ["--memcached", "localhost"])]

        self.assertEqual({"names", "restic"}, mounted[0] - mounted[1])

    def test_max_size_over_the_maximum_of_memcached_names_both_options(self) -> None:
        with self.assertRaisesRegex(UsageError, r"--max-size 52428801 exceeds the 52428800 bytes that --memcached"):
            parse_arguments(["--memcached", "localhost", "--max-size", "52428801"])

    def test_limits_are_read_from_flags_and_from_the_file(self) -> None:
        self.file.write_text(
            "[filestoraged]\nlimit =\n  files=quota:1G\n"
            "  names/ci=max-size:2K,max-unused:7d,write-once,digest-names:cas/\n"
        )
        ci = Rules(max_size=2048, max_unused=7 * 24 * 3600, write_once=True, digest_names="cas/")

        read = parse_arguments(["--config", str(self.file)]).limits
        given = parse_arguments(["--config", str(self.file), "--limit", "data/*=max-age:12h"]).limits

        self.assertEqual((Limit("files", Rules(quota=1 << 30)), Limit("names/ci", ci)), read)
        self.assertEqual((Limit("data/*", Rules(max_age=12 * 3600)),), given)

    def test_limits_of_drops_alone_go_with_memcached(self) -> None:
        self.assertEqual(1, len(parse_arguments(["--memcached", "localhost", "--limit", "drops=quota:1G"]).limits))

        for area in ("files", "data/pets", "names/*", "restic/*", "*"):
            with self.subTest(area), self.assertRaisesRegex(UsageError, r"--limit .* --memcached keeps its objects"):
                parse_arguments(["--memcached", "localhost", "--limit", f"{area}=quota:1"])


class MessageTest(TempCase):
    def test_message_quotes_the_value_and_says_what_was_expected(self) -> None:
        for arguments, message in (
            (["--nonsense"], "unknown option '--nonsense'"),
            (["--max-size", "5x"], "--max-size: invalid size '5x': expected a number of bytes such as 512, 10M or 1G"),
            (
                ["--drop-size", "8388608T"],
                "--drop-size: invalid size '8388608T': expected at most 9223372036854775807 bytes",
            ),
            (
                ["--chunk-hint", "-1"],
                "--chunk-hint: invalid size '-1': expected a number of bytes such as 512, 10M or 1G",
            ),
            (["--workers", "1025"], "--workers: invalid number of workers '1025': expected 1 to 1024"),
            (["--threads", "0"], "--threads: invalid number '0': expected 1 to 999999"),
            (
                ["--drop-ttl", "7w"],
                "--drop-ttl: invalid duration '7w': expected 1 second or more, such as 90, 30m, 12h or 7d",
            ),
            (
                ["--limit", "files"],
                "--limit: invalid limit 'files': expected AREA=RULES, such as data/*=quota:10G,max-age:90d",
            ),
            (
                ["--limit", "kv=quota:1"],
                "--limit: invalid area 'kv': expected files, data/REPOSITORY, names/SPACE, restic/REPOSITORY or drops,"
                " with * for any characters",
            ),
            (
                ["--limit", "files=quota:1,write-once"],
                "--limit: unknown rule 'write-once' of 'files': files can have quota, max-size, max-age",
            ),
            (["--limit", "*=max-age:1d"], "--limit: unknown rule 'max-age:1d' of '*': restic can have quota"),
            (["--limit", "files=quota"], "--limit: invalid rule 'quota': expected quota:SIZE"),
            (["--limit", "files=quota:1,quota:2"], "--limit: 'files' has the rule quota twice"),
            (["--limit", "names/x=write-once:1"], "--limit: invalid rule 'write-once:1': write-once has no value"),
            (["--limit", "files=max-size:0"], "--limit: invalid size '0': expected 1 byte or more"),
            (
                ["--limit", "files=max-age:5w"],
                "--limit: invalid duration '5w': expected 1 second or more, such as 90, 30m, 12h or 7d",
            ),
            (
                ["--limit", "names/x=digest-names:/cas"],
                "--limit: invalid prefix '/cas': expected the beginning of names, such as cas/",
            ),
            (["--mount", "tea=/"], f"--mount: unknown interface 'tea': expected one of {', '.join(INTERFACES)}"),
        ):
            with self.subTest(arguments=arguments), self.assertRaises(UsageError) as caught:
                parse_arguments(arguments)
            self.assertEqual(message, str(caught.exception))
