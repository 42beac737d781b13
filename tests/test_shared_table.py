"""Numbers that processes share by fork."""

from __future__ import annotations

import os
import unittest

from filestoraged.shared_table import SharedTable, clear


class SharedTableTest(unittest.TestCase):
    def test_row_that_a_forked_process_has_written_is_read_by_its_parent(self) -> None:
        table = SharedTable(2, 3)
        pid = os.fork()
        if not pid:
            table.row(1)[2] = -7
            os._exit(0)
        os.waitpid(pid, 0)

        self.assertEqual(([0, 0, 0], [0, 0, -7]), (table.row(0).tolist(), table.row(1).tolist()))
        self.assertEqual(([0, 0], [0, -7]), (table.column(0).tolist(), table.column(2).tolist()))

    def test_clear_sets_the_cells_of_one_row_alone_to_0(self) -> None:
        table = SharedTable(2, 2)
        table.column(0)[0] = table.column(0)[1] = 1

        clear(table.row(0))

        self.assertEqual(([0, 0], [1, 0]), (table.row(0).tolist(), table.row(1).tolist()))


if __name__ == "__main__":
    unittest.main()
