"""Container images as OCI layouts. bin/test-packages gives one to skopeo, umoci and buildah, and starts it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
import unittest
from typing import Any

from bin.release.image import CONFIG
from bin.release.oci import Layer, directory_member, file_member, make_layer, write_image
from tests.daemon.process import ROOT

_DATE = 1700000000


class LayerTest(unittest.TestCase):
    def test_layer_has_its_members_in_order_with_owners_and_times_no_later_than_the_date(self) -> None:
        old, new = file_member("b", b"bytes"), file_member("c", b"", mode=0o755)
        old.info.mtime, new.info.mtime = 5, _DATE + 5
        old.info.uname = "somebody"

        layer = make_layer([new, old, directory_member("a", mode=0o700, owner=8080)], _DATE, "made")

        with tarfile.open(fileobj=io.BytesIO(gzip.decompress(layer.blob))) as archive:
            found = [(each.name, each.mode, each.uid, each.uname, each.mtime) for each in archive]
            self.assertEqual(b"bytes", archive.extractfile("b").read())  # type: ignore[union-attr]
        self.assertEqual(
            [("a", 0o700, 8080, "", 0), ("b", 0o644, 0, "", 5), ("c", 0o755, 0, "", _DATE)],
            found,
        )

    def test_order_of_members_does_not_change_the_bytes(self) -> None:
        first = make_layer([file_member("a", b"1"), file_member("b", b"2")], _DATE, "made")
        second = make_layer([file_member("b", b"2"), file_member("a", b"1")], _DATE, "made")

        self.assertEqual(first, second)


class LayoutTest(unittest.TestCase):
    def setUp(self) -> None:
        self.layers = [make_layer([file_member(name, b"x")], _DATE, name) for name in ("packages", "daemon")]
        self.files = layout(self.layers)

    def test_index_leads_to_the_manifest_the_configuration_and_the_layers_by_digest_and_size(self) -> None:
        (entry,) = json.loads(self.files["index.json"])["manifests"]
        manifest = json.loads(self.blob(entry))
        config = json.loads(self.blob(manifest["config"]))

        self.assertEqual("filestoraged:1", entry["annotations"]["org.opencontainers.image.ref.name"])
        self.assertEqual([layer.blob for layer in self.layers], [self.blob(each) for each in manifest["layers"]])
        plain = [hashlib.sha256(gzip.decompress(layer.blob)).hexdigest() for layer in self.layers]
        self.assertEqual([f"sha256:{digest}" for digest in plain], config["rootfs"]["diff_ids"])
        self.assertEqual(["packages", "daemon"], [each["created_by"] for each in config["history"]])
        self.assertEqual(("amd64", "linux", CONFIG), (config["architecture"], config["os"], config["config"]))
        self.assertEqual("2023-11-14T22:13:20Z", config["created"])

    def test_layout_has_its_version_and_no_other_files(self) -> None:
        self.assertEqual({"imageLayoutVersion": "1.0.0"}, json.loads(self.files["oci-layout"]))
        self.assertEqual(6, len(self.files))

    def test_configuration_is_that_of_the_containerfile(self) -> None:
        lines = (ROOT / "Containerfile").read_text(encoding="utf-8").splitlines()
        said = {line.split()[0]: line.partition(" ")[2] for line in lines if line.split()[:1]}

        self.assertEqual(CONFIG["Entrypoint"], json.loads(said["ENTRYPOINT"]))
        self.assertEqual(CONFIG["Cmd"], json.loads(said["CMD"]))
        self.assertEqual(CONFIG["User"], said["USER"])
        self.assertEqual(list(CONFIG["Volumes"]), [said["VOLUME"]])
        self.assertEqual(list(CONFIG["ExposedPorts"]), [f"{said['EXPOSE']}/tcp"])
        self.assertEqual(CONFIG["StopSignal"], said["STOPSIGNAL"])
        self.assertLessEqual(set(said["ENV"].split()), set(CONFIG["Env"]))

    def blob(self, descriptor: dict[str, Any]) -> bytes:
        algorithm, _, digest = descriptor["digest"].partition(":")
        data = self.files[f"blobs/{algorithm}/{digest}"]
        self.assertEqual((digest, len(data)), (hashlib.sha256(data).hexdigest(), descriptor["size"]))
        return data


def layout(layers: list[Layer]) -> dict[str, bytes]:
    stream = io.BytesIO()
    write_image(stream, layers, {"architecture": "amd64", "config": CONFIG}, name="filestoraged:1", date=_DATE)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        return {each.name: archive.extractfile(each).read() for each in archive}  # type: ignore[union-attr]
