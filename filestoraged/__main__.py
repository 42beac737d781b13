import sys

from filestoraged.daemon.cli import main

sys.exit(main())
