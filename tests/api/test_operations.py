"""`/-/health`, whatever is mounted."""

from __future__ import annotations

from tests.support import ServerCase


class HealthTest(ServerCase):
    def test_health_answers_200(self) -> None:
        answer = self.get("/-/health")

        self.assertEqual((200, b'{"status": "ok"}\n'), (answer.status, answer.body))
        self.assertEqual("application/json", answer.fields["content-type"])
        self.assertEqual("no-store", answer.fields["cache-control"])

    def test_other_paths_of_operations_answer_404(self) -> None:
        for path in ("/-", "/-/", "/-/nothing", "/-/health/"):
            with self.subTest(path=path):
                self.assertEqual(404, self.get(path).status)

    def test_health_with_another_method_answers_405(self) -> None:
        answer = self.post("/-/health", b"")

        self.assertEqual((405, "GET"), (answer.status, answer.fields["allow"]))


class HealthOfOneMountTest(HealthTest):
    config = {"mounts": {"/data": "repositories"}}
