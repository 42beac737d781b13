import sys

from filestoraged.cli.main import main

sys.exit(main())
